import { z } from 'zod'
import { gradients } from '../../src/autodiff/gradients.ts'
import { differentiableTopK, hardTopK } from '../../src/clara/topk.ts'
import { addInput, addOutput, createGraph } from '../../src/graph/graph.ts'
import { multiply } from '../../src/ops/elementwise.ts'
import { reduceSum } from '../../src/ops/reduce.ts'
import { encodeGraph } from '../../src/ops/table.ts'
import type { Parity } from './model.ts'
import { tolerances } from './report.ts'

/** The differentiable top-k alone: choice, weights, and the gradient of Σ weights · readout. */
export async function compareTopK({ fixture, report, runtime }: Parity): Promise<void> {
  const { k, temperature } = fixture.value('topk', z.object({ k: z.number().int(), temperature: z.number() }))
  const given = fixture.tensor('topk.logits')
  const graph = createGraph('topk')
  const scores = addInput(graph, 'scores', 'float32', given.dims)
  const { weights, indices } = differentiableTopK(scores, k, temperature)
  const readout = addInput(graph, 'readout', 'float32', weights.shape)
  const [gradient] = gradients(reduceSum(multiply(weights, readout)), [scores])
  addOutput(graph, 'weights', weights)
  addOutput(graph, 'indices', indices)
  if (gradient) addOutput(graph, 'gradient', gradient)
  await using session = await runtime.open(encodeGraph(graph))
  const results = await session.run({ scores: given, readout: fixture.tensor('topk.readout') })

  const chosen = fixture.rows('topk.idx')
  report.exact('topk.idx', Array.from(results.indices?.data ?? [], Number), chosen.flat())
  report.exact(
    'topk.idx (without gradient)',
    fixture.rows('topk.logits').map((row) => hardTopK(row, k)),
    chosen,
  )
  report.close('topk.weights', results.weights, fixture.tensor('topk.weights'), tolerances.scores)
  report.close('topk.grad', results.gradient, fixture.tensor('topk.grad'), tolerances.gradient)
}

import { createRandom } from '../data/random.ts'
import { float32 } from '../graph/dtype.ts'
import { addInput, addOutput, addWeight, createGraph, type Tensor } from '../graph/graph.ts'
import { matmul } from '../ops/matmul.ts'
import { reduceSum } from '../ops/reduce.ts'
import { encodeGraph } from '../ops/table.ts'
import type { Runtime } from '../runtime/runtime.ts'

const SIZE = 512
const PRODUCTS = 8
const RUNS = 4

/** Floating-point operations a second that products of matrices reach on this machine, now: the best of a few runs, about a tenth of a second. */
export async function measurePeak(runtime: Runtime): Promise<number> {
  const random = createRandom(1)
  const graph = createGraph('peak')
  const input = addInput(graph, 'input', 'float32', [SIZE, SIZE])
  const weight = addWeight(graph, 'weight', 'float32', [SIZE, SIZE])
  let product: Tensor = input
  for (let index = 0; index < PRODUCTS; index++) product = matmul(product, weight)
  addOutput(graph, 'sum', reduceSum(product))
  // entries of variance 1 / SIZE keep the products at the size of their factors
  const entries = Float32Array.from({ length: SIZE * SIZE }, () => random.normal() / Math.sqrt(SIZE))
  const value = float32(entries, [SIZE, SIZE])
  const session = await runtime.open(encodeGraph(graph), new Map([['weight', value]]))
  try {
    let best = Number.POSITIVE_INFINITY
    for (let run = 0; run < RUNS; run++) {
      const started = performance.now()
      await session.run({ input: value })
      best = Math.min(best, (performance.now() - started) / 1000)
    }
    return (PRODUCTS * 2 * SIZE ** 3) / best
  } finally {
    await session.close()
  }
}

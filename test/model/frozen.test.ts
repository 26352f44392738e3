import { afterAll, beforeAll, expect, test } from 'vitest'
import { gradients } from '../../src/autodiff/gradients.ts'
import { createRandom } from '../../src/data/random.ts'
import { float32, type HostTensor } from '../../src/graph/dtype.ts'
import { addInput, addOutput, addWeight, createGraph, type Graph, type Tensor } from '../../src/graph/graph.ts'
import { frozenLinear, frozenWeights } from '../../src/model/frozen.ts'
import { multiply } from '../../src/ops/elementwise.ts'
import { linear } from '../../src/ops/matmul.ts'
import { reduceSum } from '../../src/ops/reduce.ts'
import { encodeGraph } from '../../src/ops/table.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'

let runtime: Runtime
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
})
afterAll(() => runtime.close())

const [rows, input, out] = [7, 96, 40]
const random = createRandom(3)
const noise = (dims: readonly [number, number]) =>
  float32(Float32Array.from({ length: dims[0] * dims[1] }, random.normal), dims)

/** y = x Wᵀ and dx for a given dy, by whatever product. */
async function passes(
  product: (graph: Graph, x: Tensor) => Tensor,
  weights: ReadonlyMap<string, HostTensor>,
  feeds: Record<string, HostTensor>,
) {
  const graph = createGraph('passes')
  const x = addInput(graph, 'x', 'float32', ['rows', input])
  const y = product(graph, x)
  const loss = reduceSum(multiply(y, addInput(graph, 'dy', 'float32', ['rows', out])))
  addOutput(graph, 'y', y)
  addOutput(graph, 'dx', gradients(loss, [x])[0] as Tensor)
  await using session = await runtime.open(encodeGraph(graph), weights)
  const { y: values, dx } = await session.run(feeds)
  return { y: values?.data as Float32Array, dx: dx?.data as Float32Array }
}

function cosine(a: Float32Array, b: Float32Array): number {
  const dot = (left: Float32Array, right: Float32Array) => left.reduce((sum, x, at) => sum + x * (right[at] ?? 0), 0)
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b))
}

test('8-bit frozen layers give nearly the float products in both passes, outlying channels or not', async () => {
  const weight = noise([out, input])
  const weights = new Map([['w', weight]])
  const rounded = await frozenWeights(runtime, weights)
  for (const outlier of [1, 100]) {
    const x = noise([rows, input])
    const dy = noise([rows, out])
    // one channel far larger than the rest, as hidden states have
    for (let row = 0; row < rows; row++) x.data[row * input + 5] = Number(x.data[row * input + 5]) * outlier
    const exact = await passes(
      (graph, rowsIn) => linear(rowsIn, addWeight(graph, 'w', 'float32', [out, input])),
      weights,
      {
        x,
        dy,
      },
    )
    const near = await passes((graph, rowsIn) => frozenLinear(graph)(rowsIn, 'w', [out, input]), rounded, { x, dy })
    expect(cosine(exact.y, near.y)).toBeGreaterThan(0.999)
    expect(cosine(exact.dx, near.dx)).toBeGreaterThan(0.999)
    // rounding changes something, or the float weight was used
    expect(near.y).not.toEqual(exact.y)
    expect(near.dx).not.toEqual(exact.dx)
  }
})

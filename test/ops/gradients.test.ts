import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { gradients } from '../../src/autodiff/gradients.ts'
import { float32, type HostTensor } from '../../src/graph/dtype.ts'
import { addInput, addOutput, createGraph, type Graph, type Tensor } from '../../src/graph/graph.ts'
import { cachedAttention } from '../../src/ops/attention.ts'
import * as elementwise from '../../src/ops/elementwise.ts'
import { crossEntropy, oneHot, topK } from '../../src/ops/indexing.ts'
import { reshape, sizeScalar } from '../../src/ops/layout.ts'
import { matmulBlocks, matmulHalf, matmulRowsInt8, quantiseRows } from '../../src/ops/quantised.ts'
import { reduceMax, reduceSum } from '../../src/ops/reduce.ts'
import { encodeGraph, operators } from '../../src/ops/table.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'

const { add, cast, equal, less, multiply, round, sign, stopGradient } = elementwise

let runtime: Runtime
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
})
afterAll(() => runtime.close())

/** Value of the gradient of a scalar loss by its only float input. */
async function gradientOf(value: HostTensor, loss: (x: Tensor) => Tensor): Promise<number[]> {
  const graph = createGraph('closed form')
  const x = addInput(graph, 'x', 'float32', value.dims)
  const [gradient] = gradients(loss(x), [x])
  if (!gradient) throw new Error('no gradient')
  addOutput(graph, 'gradient', gradient)
  await using session = await runtime.open(encodeGraph(graph))
  const { gradient: result } = await session.run({ x: value })
  return Array.from(result?.data ?? [], Number)
}

/** Each operator through which no gradient passes, applied to x in a way that ends in a float. */
const blocked: Record<string, (x: Tensor, graph: Graph) => Tensor> = {
  CachedAttention(x, graph) {
    const rows = reshape(x, [1, 'rows', 32])
    const cache = (name: string) => addInput(graph, name, 'float32', [1, 4, 'capacity', 8])
    return cachedAttention(rows, rows, rows, {
      heads: 4,
      groups: 4,
      past: { keys: cache('keys'), values: cache('values') },
      lastPositions: addInput(graph, 'last', 'int32', [1]),
      total: addInput(graph, 'total', 'int32', [1]),
      bias: addInput(graph, 'bias', 'float32', [1, 1, 'rows', 'positions']),
    })
  },
  Sign: (x) => sign(x),
  Round: (x) => round(x),
  Equal: (x) => cast(equal(x, multiply(x, x)), 'float32'),
  Less: (x) => cast(less(x, multiply(x, x)), 'float32'),
  StopGradient: (x) => stopGradient(x),
  OneHot: (x) => oneHot(cast(x, 'int64'), 4),
  Size: (x, graph) => add(sizeScalar(graph, 'rows'), stopGradient(x)),
  MatMulBlocks: (x, graph) =>
    matmulBlocks(x, addInput(graph, 'weight', 'uint8', [4, 1, 32]), addInput(graph, 'scales', 'float32', [4, 1])),
  MatMulHalf: (x, graph) => matmulHalf(x, addInput(graph, 'weight', 'float16', [4, 32])),
  QuantiseRows: (x) => cast(quantiseRows(x).values, 'float32'),
  MatMulRowsInt8: (x, graph) =>
    matmulRowsInt8(
      { values: quantiseRows(x).values },
      addInput(graph, 'weight', 'int8', [32, 4]),
      addInput(graph, 'scales', 'float32', [4]),
    ),
}

describe('where no gradient flows', () => {
  test('the list names exactly the operators that say so', () => {
    const declared = Object.values(operators).filter(({ gradient }) => 'notDifferentiable' in gradient)
    expect(Object.keys(blocked).sort()).toEqual(declared.map(({ name }) => name).sort())
  })

  test.each(Object.entries(blocked))('%s passes none, and a loss behind it alone is refused', (_name, build) => {
    const graph = createGraph('blocked')
    const x = addInput(graph, 'x', 'float32', ['rows', 32])
    expect(() => gradients(reduceSum(build(x, graph)), [x])).toThrow(/No gradient reaches 'x'/)
  })

  test('indices that top-k found, and what was cast to integers, pass none', () => {
    const graph = createGraph('integers')
    const x = addInput(graph, 'x', 'float32', [4])
    expect(() => gradients(reduceSum(cast(topK(x, 2).indices, 'float32')), [x])).toThrow(/No gradient reaches/)
    expect(() => gradients(reduceSum(cast(cast(x, 'int32'), 'float32')), [x])).toThrow(/No gradient reaches/)
  })

  test.each([
    ['stopGradient', stopGradient, [1.5, -2.25]],
    ['sign', sign, [1, -1]],
    ['round', round, [2, -2]],
  ] as const)('x · %s(x) is linear in x', async (_name, build, expected) => {
    expect(await gradientOf(float32([1.5, -2.25], [2]), (x) => reduceSum(multiply(x, build(x))))).toEqual(expected)
  })

  test('the straight-through estimator has the value of one branch and the gradient of the other', async () => {
    const build = (x: Tensor) => reduceSum(multiply(add(x, stopGradient(elementwise.subtract(round(x), x))), x))
    // d (round(x) x) with round straight-through: round(x) + x
    expect(await gradientOf(float32([1.25, -0.75], [2]), build)).toEqual([2.25, -1.75])
  })
})

describe('closed forms', () => {
  test('largest elements that are equal share the gradient', async () => {
    const value = float32([3, 1, 3, 2, 2, 2, 0, 5], [2, 4])
    expect(await gradientOf(value, (x) => reduceSum(reduceMax(x, [1])))).toEqual([0.5, 0, 0.5, 0, 0, 0, 0, 1])
    expect(await gradientOf(float32([2, 2, 2, 2], [4]), (x) => reduceMax(x))).toEqual([0.25, 0.25, 0.25, 0.25])
  })

  test('cross-entropy: softmax less one at the target', async () => {
    const logits = [0.3, -1.2, 2]
    const total = logits.reduce((sum, value) => sum + Math.exp(value), 0)
    const gradient = await gradientOf(float32(logits, [1, 3]), (x) => {
      const targets = cast(multiply(stopGradient(reduceSum(x, [1])), elementwise.scalar(x, 0)), 'int64')
      return reduceSum(crossEntropy(x, targets).nll)
    })
    logits.forEach((value, i) => {
      expect(gradient[i]).toBeCloseTo(Math.exp(value) / total - (i === 0 ? 1 : 0), 6)
    })
  })

  test('top-k gives its gradient to the places it chose', async () => {
    const weights = (x: Tensor) => elementwise.scalar(x, 2)
    const loss = (x: Tensor) => reduceSum(multiply(topK(x, 2).values, weights(x)))
    expect(await gradientOf(float32([1, 4, -3, 2], [4]), loss)).toEqual([0, 2, 0, 2])
  })

  test('reducing over no axis is the identity', async () => {
    const graph = createGraph('identity')
    const x = addInput(graph, 'x', 'float32', [2, 2])
    addOutput(graph, 'y', elementwise.scale(reduceSum(x, []), 2))
    await using session = await runtime.open(encodeGraph(graph))
    const { y } = await session.run({ x: float32([1, 2, 3, 4], [2, 2]) })
    expect(y).toMatchObject({ dims: [2, 2], data: Float32Array.of(2, 4, 6, 8) })
  })

  test('an input of integers has no gradient', () => {
    const graph = createGraph('embedding')
    const places = addInput(graph, 'places', 'int64', [2])
    expect(() => gradients(reduceSum(cast(places, 'float32')), [places])).toThrow(/No gradient reaches 'places'/)
  })
})

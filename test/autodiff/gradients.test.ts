import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { check, randomTensor } from '../../src/autodiff/check.ts'
import { gradients } from '../../src/autodiff/gradients.ts'
import { float32, type HostTensor } from '../../src/graph/dtype.ts'
import { addInput, addOutput, createGraph, type Graph, type Tensor } from '../../src/graph/graph.ts'
import { add, exp, multiply, sigmoid } from '../../src/ops/elementwise.ts'
import { reshape } from '../../src/ops/layout.ts'
import { gemm, matmul } from '../../src/ops/matmul.ts'
import { reduceSum } from '../../src/ops/reduce.ts'
import { countFlops, encodeGraph } from '../../src/ops/table.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'

let runtime: Runtime
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
})
afterAll(() => runtime.close())

async function valuesOf(graph: Graph, tensors: Record<string, Tensor | undefined>, feeds: Record<string, HostTensor>) {
  for (const [name, tensor] of Object.entries(tensors)) if (tensor) addOutput(graph, name, tensor)
  await using session = await runtime.open(encodeGraph(graph))
  const results = await session.run(feeds)
  return Object.fromEntries(Object.entries(results).map(([name, { data }]) => [name, Array.from(data, Number)]))
}

describe('the reverse walk', () => {
  test('sums what comes back along every path', async () => {
    // y = e^x (e^x + x) + x: y' = e^x (e^x + x) + e^x (e^x + 1) + 1
    const graph = createGraph('shared')
    const x = addInput(graph, 'x', 'float32', [])
    const power = exp(x)
    const y = add(multiply(power, add(power, x)), x)
    const { g } = await valuesOf(graph, { g: gradients(y, [x])[0] }, { x: float32([0.5], []) })
    const e = Math.exp(0.5)
    expect(g?.[0]).toBeCloseTo(e * (e + 0.5) + e * (e + 1) + 1, 5)
  })

  test('a tensor used as both operands gets both shares', async () => {
    const graph = createGraph('square')
    const x = addInput(graph, 'x', 'float32', [2])
    const { g } = await valuesOf(
      graph,
      { g: gradients(reduceSum(multiply(x, x)), [x])[0] },
      { x: float32([3, -1], [2]) },
    )
    expect(g).toEqual([6, -2])
  })

  test('holds through many shared subexpressions', async () => {
    await check(runtime, {
      inputs: { x: { value: randomTensor([2, 3], 5) }, w: { value: randomTensor([3, 3], 6) } },
      build({ x, w }) {
        let state = x
        for (let layer = 0; layer < 3; layer++) state = add(state, sigmoid(gemm(multiply(state, x), w, state)))
        return multiply(state, reduceSum(state, [1], true))
      },
      tolerance: 1e-5,
    })
  })

  test('gives gradients of inner tensors, and of the loss itself', async () => {
    const graph = createGraph('inner')
    const x = addInput(graph, 'x', 'float32', [2])
    const inner = multiply(x, x)
    const loss = reduceSum(multiply(inner, inner))
    const [byInner, byX, byLoss] = gradients(loss, [inner, x, loss])
    const results = await valuesOf(graph, { byInner, byX, byLoss }, { x: float32([1, 2], [2]) })
    expect(results).toEqual({ byInner: [2, 8], byX: [4, 32], byLoss: [1] })
  })

  test('can be taken again: second derivatives', async () => {
    const graph = createGraph('second')
    const x = addInput(graph, 'x', 'float32', [])
    const [first] = gradients(multiply(x, multiply(x, x)), [x])
    const [second] = gradients(first, [x])
    const results = await valuesOf(graph, { first, second }, { x: float32([2], []) })
    expect(results).toEqual({ first: [12], second: [12] })
  })

  test('a seed stands for a loss in another graph, beside one in this', async () => {
    const graph = createGraph('seeded')
    const x = addInput(graph, 'x', 'float32', ['n'])
    const incoming = addInput(graph, 'incoming', 'float32', ['n'])
    const y = multiply(x, x)
    const [seeded] = gradients(undefined, [x], new Map([[y, incoming]]))
    const [both] = gradients(reduceSum(x), [x], new Map([[y, incoming]]))
    const feeds = { x: float32([1, 2], [2]), incoming: float32([10, 100], [2]) }
    expect(await valuesOf(graph, { seeded, both }, feeds)).toEqual({ seeded: [20, 400], both: [21, 401] })
  })
})

describe('what it refuses', () => {
  const graph = createGraph('refusals')
  const x = addInput(graph, 'x', 'float32', [2, 3])
  const other = addInput(graph, 'other', 'float32', [2, 3])

  test('a loss that is no scalar', () => {
    const loss = multiply(x, x)
    expect(() => gradients(loss, [x])).toThrow(/The loss 'Mul_\d+' has shape \[2, 3\]. Expected a scalar. Reduce it/)
  })

  test('a tensor that the loss does not depend on', () => {
    expect(() => gradients(reduceSum(x), [x, other])).toThrow(/No gradient reaches 'other'. No differentiable operator/)
  })

  test('a seed of another shape', () => {
    expect(() => gradients(undefined, [x], new Map([[exp(x), reshape(other, [3, 2])]]))).toThrow(
      /The seed for 'Exp_\d+' has shape \[3, 2\]. Expected the tensor's own shape \[2, 3\]/,
    )
  })

  test('nothing at all', () => {
    expect(() => gradients(undefined, [])).toThrow(/asked for nothing/)
  })
})

describe('gradients that are folded into a product', () => {
  const sizes = { x: [4, 3], a: [3, 5], b: [5, 3], c: [3, 3] } as const

  /** The same function by Gemm, whose gradients fold, or by MatMul, whose do not. */
  function build(product: (a: Tensor, b: Tensor) => Tensor) {
    const graph = createGraph('folding')
    const [x, a, b, c] = (['x', 'a', 'b', 'c'] as const).map((name) => addInput(graph, name, 'float32', sizes[name]))
    if (!x || !a || !b || !c) throw new Error('four inputs')
    const loss = reduceSum(multiply(add(add(product(product(x, a), b), product(x, c)), x), product(x, c)))
    return { graph, grads: gradients(loss, [x, a, b, c]) }
  }
  const byGemm = build((p, q) => gemm(p, q))
  const byMatMul = build((p, q) => matmul(p, q))

  test('are the same numbers as without', async () => {
    const feeds = Object.fromEntries(Object.entries(sizes).map(([name, dims], i) => [name, randomTensor(dims, 40 + i)]))
    const named = ({ grads }: typeof byGemm) => Object.fromEntries(grads.map((tensor, i) => [`g${i}`, tensor]))
    const folded = await valuesOf(byGemm.graph, named(byGemm), feeds)
    const plain = await valuesOf(byMatMul.graph, named(byMatMul), feeds)
    for (const [name, expected] of Object.entries(plain)) {
      expected.forEach((value, i) => {
        expect(folded[name]?.[i]).toBeCloseTo(value, 5)
      })
    }
  })

  test('take fewer passes and no further product', () => {
    const [gemmNodes, matMulNodes] = [byGemm.graph.nodes, byMatMul.graph.nodes]
    const fused = gemmNodes.filter(({ operator, inputs }) => operator === 'Gemm' && inputs.length === 3)
    expect(fused.length).toBeGreaterThan(0)
    const additions = (nodes: typeof gemmNodes) => nodes.filter(({ operator }) => operator === 'Add').length
    expect(additions(gemmNodes)).toBe(additions(matMulNodes) - fused.length)
    expect(countFlops(byGemm.graph, {})).toBe(countFlops(byMatMul.graph, {}))
  })

  test('leave a product alone that is used a second time', () => {
    const graph = createGraph('twice')
    const x = addInput(graph, 'x', 'float32', [2, 2])
    const w = addInput(graph, 'w', 'float32', [2, 2])
    // the gradient of the sum x + y is one product, which reaches x and y
    const y = exp(x)
    const [byX] = gradients(reduceSum(multiply(gemm(add(x, y), w), gemm(x, w))), [x])
    if (!byX) throw new Error('no gradient')
    addOutput(graph, 'byX', byX)
    const products = 4
    expect(countFlops(graph, {})).toBeLessThanOrEqual(products * 2 * 2 * 2 * 2)
  })
})

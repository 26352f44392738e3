import { fromBinary } from '@bufbuild/protobuf'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { float32, type HostTensor, int64 } from '../../src/graph/dtype.ts'
import { addConstant, addInput, addOutput, addWeight, createGraph } from '../../src/graph/graph.ts'
import { encodeModel } from '../../src/graph/onnx.ts'
import { ModelProtoSchema } from '../../src/graph/onnx_pb.ts'
import { add, exp, multiply } from '../../src/ops/elementwise.ts'
import { concat, expand, reshape, transpose } from '../../src/ops/layout.ts'
import { matmul } from '../../src/ops/matmul.ts'
import { countFlops, encodeGraph } from '../../src/ops/table.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'

const numbers = ({ data }: HostTensor) => Array.from(data, Number)
const decoded = (bytes: Uint8Array) => fromBinary(ModelProtoSchema, bytes).graph

describe('a graph', () => {
  test('names of inputs and weights are unique', () => {
    const graph = createGraph('g')
    addInput(graph, 'x', 'float32', [1])
    expect(() => addWeight(graph, 'x', 'float32', [1])).toThrow(/'g' already has a tensor named 'x'/)
  })

  test('outputs are named once', () => {
    const graph = createGraph('g')
    const x = addInput(graph, 'x', 'float32', [1])
    addOutput(graph, 'y', x)
    expect(() => addOutput(graph, 'y', x)).toThrow(/already has an output named 'y'/)
  })

  test('equal constants exist once, different ones apart', () => {
    const graph = createGraph('g')
    const one = addConstant(graph, float32([1], []))
    expect(addConstant(graph, float32([1], []))).toBe(one)
    expect(addConstant(graph, float32([1], [1]))).not.toBe(one)
    expect(addConstant(graph, int64([1], []))).not.toBe(one)
    expect(addConstant(graph, float32([2], []))).not.toBe(one)
    expect(graph.constants.size).toBe(4)
  })

  test('a constant fills its shape', () => {
    expect(() => addConstant(createGraph('g'), float32([1, 2], [3]))).toThrow(/2 values. Expected 3 for shape \[3\]/)
  })

  test('a symbolic shape is stored canonically', () => {
    expect(addInput(createGraph('g'), 'x', 'float32', ['length*batch']).shape).toEqual(['batch*length'])
  })
})

describe('encoding', () => {
  test('leaves out what no output depends on', () => {
    const graph = createGraph('g')
    const x = addInput(graph, 'x', 'float32', ['rows', 2])
    const unused = addInput(graph, 'unused', 'float32', [2])
    const weight = addWeight(graph, 'weight', 'float32', [2, 3])
    const idle = addWeight(graph, 'idle', 'float32', [2])
    const constant = addConstant(graph, float32([2, 3], [2]))
    const idleConstant = addConstant(graph, float32([9, 9], [2]))
    exp(multiply(add(unused, idle), idleConstant))
    addOutput(graph, 'y', matmul(multiply(x, constant), weight))
    const model = encodeGraph(graph)
    expect(model.inputs.map(({ name }) => name)).toEqual(['x'])
    expect(model.weights).toEqual([{ name: 'weight', dtype: 'float32', dims: [2, 3] }])
    expect(model.outputs).toEqual([{ name: 'y', dtype: 'float32', shape: ['rows', 3] }])
    const proto = decoded(model.bytes)
    expect(proto?.node.map(({ opType }) => opType)).toEqual(['Mul', 'MatMul', 'Identity'])
    expect(proto?.initializer.map(({ name }) => name)).toEqual([constant.name, 'weight'])
  })

  test('weights are named, not contained', () => {
    const graph = createGraph('g')
    addOutput(graph, 'y', add(addInput(graph, 'x', 'float32', [1]), addWeight(graph, 'big', 'float32', [1000, 1])))
    const { bytes } = encodeGraph(graph)
    expect(bytes.byteLength).toBeLessThan(1000)
    const [big] = decoded(bytes)?.initializer ?? []
    expect(big?.externalData.map(({ key, value }) => [key, value])).toEqual([
      ['location', 'big'],
      ['offset', '0'],
      ['length', '4000'],
    ])
  })

  test('an input that only lends its length is kept', () => {
    const graph = createGraph('g')
    addInput(graph, 'like', 'float32', ['n'])
    addOutput(graph, 'y', expand(addInput(graph, 'x', 'float32', [1]), ['n']))
    expect(encodeGraph(graph).inputs.map(({ name }) => name)).toEqual(['like', 'x'])
  })

  test('a graph without output, and a length that no input introduces, are told', () => {
    expect(() => encodeModel(createGraph('empty'), () => [])).toThrow(/'empty' has no output. Call addOutput/)
    const graph = createGraph('g')
    addOutput(graph, 'y', expand(addInput(graph, 'x', 'float32', [1]), ['n']))
    expect(() => encodeGraph(graph)).toThrow(/'g' cannot compute dimension 'n'/)
  })

  test('floating-point operations are those of the products that the outputs need', () => {
    const graph = createGraph('g')
    const x = addInput(graph, 'x', 'float32', ['rows', 4])
    const weight = addWeight(graph, 'w', 'float32', [4, 5])
    addOutput(graph, 'y', exp(matmul(x, weight)))
    matmul(x, weight)
    expect(countFlops(graph, { rows: 3 })).toBe(2 * 3 * 4 * 5)
  })
})

describe('symbolic shapes at run time', () => {
  let runtime: Runtime
  beforeAll(async () => {
    runtime = await openRuntime({ threads: 1 })
  })
  afterAll(() => runtime.close())

  test('one graph serves many lengths, an empty one included', async () => {
    const graph = createGraph('lengths')
    const x = addInput(graph, 'x', 'float32', ['batch', 'length', 2])
    const past = addInput(graph, 'past', 'float32', ['batch', 'past', 2])
    const joined = concat([past, x], 1)
    const flat = transpose(reshape(joined, [-1, 2]), [1, 0])
    addOutput(graph, 'y', reshape(flat, [2, 'batch', 'past+length']))
    expect(graph.outputs.get('y')?.shape).toEqual([2, 'batch', 'past+length'])
    await using session = await runtime.open(encodeGraph(graph))
    for (const [batch, length, before] of [
      [1, 1, 1],
      [2, 3, 1],
      [3, 1, 0],
      [0, 2, 1],
    ] as const) {
      const value = (positions: number, base: number) =>
        float32(
          Array.from({ length: batch * positions * 2 }, (_, i) => base + i),
          [batch, positions, 2],
        )
      const [pastValue, xValue] = [value(before, 100), value(length, 0)]
      const { y } = await session.run({ x: xValue, past: pastValue })
      const rows = Array.from({ length: batch }, (_, i) => [
        ...numbers(pastValue).slice(i * before * 2, (i + 1) * before * 2),
        ...numbers(xValue).slice(i * length * 2, (i + 1) * length * 2),
      ]).flat()
      expect(y?.dims).toEqual([2, batch, before + length])
      expect(y && numbers(y)).toEqual([...rows.filter((_, i) => i % 2 === 0), ...rows.filter((_, i) => i % 2 === 1)])
    }
  })

  test('a literal empty axis stays empty', async () => {
    const graph = createGraph('empty axis')
    const x = addInput(graph, 'x', 'float32', [3, 0])
    addOutput(graph, 'y', reshape(x, [0, 5]))
    await using session = await runtime.open(encodeGraph(graph))
    expect((await session.run({ x: float32([], [3, 0]) })).y?.dims).toEqual([0, 5])
  })
})

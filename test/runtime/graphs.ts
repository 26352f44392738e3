import type { DType, HostTensor } from '../../src/graph/dtype.ts'
import { addInput, addOutput, addWeight, createGraph, type Tensor } from '../../src/graph/graph.ts'
import type { EncodedModel } from '../../src/graph/onnx.ts'
import type { Shape } from '../../src/graph/shape.ts'
import { add, scale } from '../../src/ops/elementwise.ts'
import { gather } from '../../src/ops/indexing.ts'
import { matmul } from '../../src/ops/matmul.ts'
import { encodeGraph } from '../../src/ops/table.ts'

/** A graph of one input `x` and its outputs. */
export function modelOf(
  shape: Shape,
  build: (x: Tensor) => Record<string, Tensor>,
  dtype: DType = 'float32',
): EncodedModel {
  const graph = createGraph('test')
  const outputs = build(addInput(graph, 'x', dtype, shape))
  for (const [name, tensor] of Object.entries(outputs)) addOutput(graph, name, tensor)
  return encodeGraph(graph)
}

/** y = 2 x. */
export const doubling = (shape: Shape): EncodedModel => modelOf(shape, (x) => ({ y: scale(x, 2) }))

/** y = x + weight, of length 3. */
export function withWeight(): EncodedModel {
  return modelOf([3], (x) => ({ y: add(x, addWeight(x.graph, 'weight', 'float32', [3])) }))
}

/** Rows of a table of three: an index outside makes ONNX Runtime fail. */
export const lookup = (): EncodedModel =>
  modelOf(['n'], (x) => ({ y: gather(addWeight(x.graph, 'table', 'float32', [3, 1]), x) }), 'int64')

/** Many matrix products in a row: long enough that other things happen meanwhile. */
const SIZE = 512
export const long = (products: number): EncodedModel =>
  modelOf([SIZE, SIZE], (x) => {
    let y = x
    for (let i = 0; i < products; i++) y = matmul(y, x, { alpha: 1 / SIZE })
    return { y }
  })

export const ones = (): HostTensor => ({
  dtype: 'float32',
  dims: [SIZE, SIZE],
  data: new Float32Array(SIZE * SIZE).fill(1),
})

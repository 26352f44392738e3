import { describe, expect, test } from 'vitest'
import { ClaraError } from '../../src/errors.ts'
import type { DType } from '../../src/graph/dtype.ts'
import { addInput, addNode, createGraph, type Tensor } from '../../src/graph/graph.ts'
import type { Shape } from '../../src/graph/shape.ts'
import { add, cast, exp, where } from '../../src/ops/elementwise.ts'
import { crossEntropy, gather, gatherElements, oneHot, scatterAdd, topK } from '../../src/ops/indexing.ts'
import { concat, expand, reshape, slice, transpose } from '../../src/ops/layout.ts'
import { gemm, matmul } from '../../src/ops/matmul.ts'
import { rmsNorm, rotary } from '../../src/ops/normalise.ts'
import { reduceSum } from '../../src/ops/reduce.ts'
import { encodeGraph } from '../../src/ops/table.ts'

const graph = createGraph('errors')
const tensor = (name: string, shape: Shape, dtype: DType = 'float32') => addInput(graph, name, dtype, shape)

const a = tensor('a', [2, 3])
const b = tensor('b', [4, 2])
const ids = tensor('ids', [2], 'int64')
const rows = tensor('rows', ['batch', 3])
const cube = tensor('cube', ['batch', 'length', 8])
const places = tensor('places', ['batch', 'length'], 'int64')
const table = tensor('table', [16, 2])

/** A mistake, and what its message must tell: operator, operands with their shapes, and what is wrong. */
const mistakes: [string, () => Tensor | object, RegExp][] = [
  [
    'shapes that do not broadcast',
    () => add(a, b),
    /^Add\(a: float32\[2, 3\], b: float32\[4, 2\]\): .*do not broadcast/,
  ],
  ['a symbol against a number', () => add(a, rows), /^Add\(a: float32\[2, 3\], rows: float32\[batch, 3\]\)/],
  ['two element types', () => add(ids, cast(ids, 'int32')), /^Add\(ids: int64\[2\], .*element types differ/],
  ['a function of integers', () => exp(ids), /^Exp\(ids: int64\[2\]\): the element type must be a floating one/],
  ['a condition that is no bool', () => where(a, a, a), /^Where\(a: .*operand 0 must be bool/],
  ['inner dimensions', () => matmul(a, b), /^MatMul\(a: float32\[2, 3\], b: float32\[4, 2\]\): .*3 and 4 differ/],
  ['inner dimensions, transposed', () => gemm(a, b, undefined, { transposeA: true }), /^Gemm\(.*2 and 4 differ/],
  ['a matrix product of a vector', () => matmul(a, ids), /^MatMul\(.*operand 1 must be float32/],
  [
    'an addend that is larger than the product',
    () => gemm(b, a, tensor('c', [5, 4, 3])),
    /^Gemm\(.*does not broadcast to \[4, 3\]/,
  ],
  ['an addend of another width', () => gemm(b, a, tensor('d', [4])), /^Gemm\(.*d: float32\[4\]\): the addend/],
  [
    'a shape of another size',
    () => reshape(a, [4, 2]),
    /^Reshape\(a: float32\[2, 3\]\): 6 values do not fill \[4, 2\]/,
  ],
  [
    'an inferred dimension that is no whole number',
    () => reshape(rows, ['batch', 2, -1]),
    /^Reshape\(rows: .*3\*batch is not a multiple of 2\*batch/,
  ],
  ['an order that is none', () => transpose(a, [0, 0]), /^Transpose\(a: float32\[2, 3\]\): \[0,0\] is not an order/],
  ['an expansion of a long axis', () => expand(a, [2, 6]), /^Expand\(a: .*does not expand to \[2, 6\]/],
  ['operands of other widths', () => concat([a, b], 0), /^Concat\(a: .*b: .*more than axis 0/],
  ['an axis that is not there', () => concat([a, a], 2), /^Concat\(a: .*no axis 2/],
  ['a slice behind the end', () => slice(a, 1, 1, 4), /^Slice\(a: float32\[2, 3\]\): 4 lies behind the end of axis 1/],
  ['a slice that ends before it starts', () => slice(a, 1, 2, 1), /^Slice\(a: .*2 lies behind 1/],
  [
    'a slice of unknown length',
    () => slice(cube, 1, 'batch', 'length'),
    /^Slice\(cube: .*cannot tell the length of batch to length/,
  ],
  ['a reduction of a missing axis', () => reduceSum(a, [2]), /^ReduceSum\(a: float32\[2, 3\]\): there is no axis 2/],
  ['indices that are no integers', () => gather(a, a), /^Gather\(a: .*operand 1 must be int64/],
  [
    'places of other rows',
    () => gatherElements(a, tensor('p', [3, 1], 'int64'), 1),
    /^GatherElements\(a: .*more than axis 1/,
  ],
  [
    'updates of another shape',
    () => scatterAdd(a, tensor('q', [2, 1], 'int64'), a, 1),
    /^ScatterAdd\(a: .*places and updates/,
  ],
  ['more than there are', () => topK(a, 4), /^TopK\(a: float32\[2, 3\]\): k = 4 exceeds the 3 candidates/],
  ['none of them', () => topK(a, 0), /^TopK\(a: .*k = 0 is not a positive integer/],
  ['the one-hot of floats', () => oneHot(a, 3), /^OneHot\(a: .*operand 0 must be int64/],
  [
    'targets for other rows',
    () => crossEntropy(rows, ids),
    /^CrossEntropy\(rows: float32\[batch, 3\], ids: int64\[2\]\): expected logits/,
  ],
  ['a norm of another width', () => rmsNorm(a, table, 1e-5), /^RmsNorm\(a: .*length of the last axis/],
  [
    'rotary tables of another width',
    () => rotary(cube, places, { heads: 1, rotaryDim: 0, cos: table, sin: table }),
    /^Rotary\(cube: float32\[batch, length, 8\], places: .*the tables must be \[positions, 4\]/,
  ],
  [
    'heads that do not divide',
    () => rotary(cube, places, { heads: 3, rotaryDim: 0, cos: table, sin: table }),
    /^Rotary\(.*does not divide into 3 heads/,
  ],
]

describe('mistakes are told when the graph is built', () => {
  test.each(mistakes)('%s', (_title, build, message) => {
    expect(build).toThrow(message)
    expect(build).toThrow(ClaraError)
  })

  test('operands of two graphs', () => {
    const other = addInput(createGraph('other'), 'x', 'float32', [2, 3])
    expect(() => add(a, other)).toThrow(/Add: operand 'x' belongs to graph 'other'.*graph 'errors'/)
  })

  test('a node that no operator made cannot be encoded', () => {
    const own = createGraph('own')
    const x = addInput(own, 'x', 'float32', [1])
    const [y] = addNode(own, 'Homemade', [x], {}, [{ dtype: 'float32', shape: [1] }])
    own.outputs.set('y', y as Tensor)
    expect(() => encodeGraph(own)).toThrow(/Node 'Homemade_0' of type 'Homemade' was made by no operator/)
  })
})

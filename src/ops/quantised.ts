import { addConstant, type Tensor } from '../graph/graph.ts'
import { MICROSOFT } from '../graph/onnx.ts'
import { abs, add, multiply, scalar, scale } from './elementwise.ts'
import { reshape } from './layout.ts'
import { applyOne, at, dimAt, mismatch, type Operator, requireDType } from './operator.ts'
import { reduceMax } from './reduce.ts'

/** Inputs of one scale in a block-quantised weight. */
export const QUANTISATION_BLOCK = 32

const forInference = { notDifferentiable: 'quantised weights are for inference' }
const names = (tensors: readonly (Tensor | undefined)[]) => tensors.map((tensor) => tensor?.name ?? '')

/** Widths of a block-quantised weight's integers. */
export type BlockBits = 4 | 8

export interface BlockAttributes {
  readonly columns: number
  readonly inner: number
  readonly bits: BlockBits
}

/** Bytes of one block: with 4 bits two weights share a byte, the first of them in its low half. */
export const bytesPerBlock = (bits: BlockBits): number => (QUANTISATION_BLOCK * bits) / 8

/**
 * x Wᵀ with W as integers of 4 or 8 bits around 8 or 128, in blocks of 32 inputs with one scale each (ONNX Runtime's
 * MatMulNBits). At accuracy level 4 the rows too are rounded to 8 bits, block by block, and the products run on integers.
 */
const matMulBlocksOperator: Operator<BlockAttributes> = {
  name: 'MatMulBlocks',
  infer(inputs, { columns, inner, bits }) {
    requireDType('MatMulBlocks', inputs, [0, 2], 'float32')
    const [rows, weight, scales] = [at(inputs, 0), at(inputs, 1), at(inputs, 2)]
    const blocks = inner / QUANTISATION_BLOCK
    if (!Number.isInteger(blocks))
      throw mismatch('MatMulBlocks', inputs, `${inner} inputs are no whole number of blocks`)
    if (dimAt(rows, -1) !== inner) throw mismatch('MatMulBlocks', inputs, `the rows must have ${inner} columns`)
    const bytes = bytesPerBlock(bits)
    if (weight.dtype !== 'uint8' || weight.shape.join() !== [columns, blocks, bytes].join()) {
      throw mismatch('MatMulBlocks', inputs, `the weight must be uint8[${columns}, ${blocks}, ${bytes}]`)
    }
    if (scales.shape.join() !== [columns, blocks].join()) {
      throw mismatch('MatMulBlocks', inputs, `the scales must be [${columns}, ${blocks}]`)
    }
    return [{ dtype: 'float32', shape: [...rows.shape.slice(0, -1), columns] }]
  },
  emit: (node, { columns, inner, bits }) => [
    {
      type: 'MatMulNBits',
      domain: MICROSOFT,
      inputs: names(node.inputs),
      outputs: [at(node.outputs, 0).name],
      attributes: { K: inner, N: columns, bits, block_size: QUANTISATION_BLOCK, accuracy_level: 4 },
    },
  ],
  gradient: forInference,
}

/** x Wᵀ for rows x [rows, inner] and a block-quantised W of `columns` outputs. Default: 8 bits. Made for few rows. */
export const matmulBlocks = (rows: Tensor, weight: Tensor, scales: Tensor, bits: BlockBits = 8): Tensor =>
  applyOne(matMulBlocksOperator, [rows, weight, scales], {
    columns: Number(dimAt(weight, 0)),
    inner: Number(dimAt(weight, 1)) * QUANTISATION_BLOCK,
    bits,
  })

/** ONNX's number for the element type float32. */
const FLOAT = 1

/** x Wᵀ with W in float16, which is widened for this product alone. */
const matMulHalfOperator: Operator<Record<string, never>> = {
  name: 'MatMulHalf',
  infer(inputs) {
    requireDType('MatMulHalf', inputs, [0], 'float32')
    requireDType('MatMulHalf', inputs, [1], 'float16')
    const [rows, weight] = [at(inputs, 0), at(inputs, 1)]
    if (rows.shape.length !== 2 || weight.shape.length !== 2 || dimAt(rows, 1) !== dimAt(weight, 1)) {
      throw mismatch('MatMulHalf', inputs, 'expected matrices of as many columns')
    }
    return [{ dtype: 'float32', shape: [dimAt(rows, 0), dimAt(weight, 0)] }]
  },
  emit(node, _attributes, { ints, temporary }) {
    const [rows = '', weight = ''] = names(node.inputs)
    const [size, zero, shape, whole, widened] = [temporary(), temporary(), temporary(), temporary(), temporary()]
    // ONNX Runtime would widen a constant once and keep it so; a shape that is known at run time only forbids that
    return [
      { type: 'Shape', inputs: [rows], outputs: [size] },
      { type: 'Mul', inputs: [size, ints([0, 0])], outputs: [zero] },
      { type: 'Add', inputs: [zero, ints(at(node.inputs, 1).shape.map(Number))], outputs: [shape] },
      { type: 'Reshape', inputs: [weight, shape], outputs: [whole] },
      { type: 'Cast', inputs: [whole], outputs: [widened], attributes: { to: FLOAT } },
      {
        type: 'Gemm',
        inputs: [rows, widened],
        outputs: [at(node.outputs, 0).name],
        attributes: { transB: 1 },
      },
    ]
  },
  gradient: forInference,
}

/** x Wᵀ for rows x [rows, inner] and a float16 W [columns, inner]: half the memory of float32, slower. */
export const matmulHalf = (rows: Tensor, weight: Tensor): Tensor => applyOne(matMulHalfOperator, [rows, weight], {})

/** What stands for zero in 8 unsigned bits. Integer products are fast for unsigned rows with signed weights, and only so. */
const ZERO = 128
/** ONNX's number for the element type uint8. */
const UINT8 = 2

/** q = round(x / s) + 128 in 8 bits, with one scale s a row: x [rows, width], s [rows]. */
const quantiseRowsOperator: Operator<Record<string, never>> = {
  name: 'QuantiseRows',
  infer(inputs) {
    requireDType('QuantiseRows', inputs, [0, 1], 'float32')
    const [x, scales] = [at(inputs, 0), at(inputs, 1)]
    if (x.shape.length !== 2 || scales.shape.length !== 1 || scales.shape[0] !== x.shape[0]) {
      throw mismatch('QuantiseRows', inputs, 'expected a matrix and one scale for each of its rows')
    }
    return [{ dtype: 'uint8', shape: x.shape }]
  },
  emit(node, _attributes, { floats, temporary }) {
    const [x = '', scales = ''] = names(node.inputs)
    // ONNX wants a zero point for each row: they are made of the scales, whose number they share
    const [zeros, points, zeroPoints] = [temporary(), temporary(), temporary()]
    return [
      { type: 'Mul', inputs: [scales, floats([0])], outputs: [zeros] },
      { type: 'Add', inputs: [zeros, floats([ZERO])], outputs: [points] },
      { type: 'Cast', inputs: [points], outputs: [zeroPoints], attributes: { to: UINT8 } },
      {
        type: 'QuantizeLinear',
        inputs: [x, scales, zeroPoints],
        outputs: [at(node.outputs, 0).name],
        attributes: { axis: 0 },
      },
    ]
  },
  gradient: forInference,
}

/** (q - 128) W · diag(s) for rows q in 8 bits, an int8 W [inner, columns] and one scale s a column. */
const matMulRowsInt8Operator: Operator<Record<string, never>> = {
  name: 'MatMulRowsInt8',
  infer(inputs) {
    requireDType('MatMulRowsInt8', inputs, [0, 3], 'uint8')
    requireDType('MatMulRowsInt8', inputs, [1], 'int8')
    requireDType('MatMulRowsInt8', inputs, [2], 'float32')
    const [rows, weight, scales] = [at(inputs, 0), at(inputs, 1), at(inputs, 2)]
    if (rows.shape.length !== 2 || weight.shape.length !== 2 || rows.shape[1] !== weight.shape[0]) {
      throw mismatch('MatMulRowsInt8', inputs, 'expected matrices with one inner dimension')
    }
    if (scales.shape.length !== 1 || scales.shape[0] !== weight.shape[1]) {
      throw mismatch('MatMulRowsInt8', inputs, 'expected one scale for each column of the weight')
    }
    return [{ dtype: 'float32', shape: [dimAt(rows, 0), dimAt(weight, 1)] }]
  },
  emit(node, _attributes, { floats }) {
    const [rows = '', weight = '', scales = '', zero = ''] = names(node.inputs)
    const inputs = [rows, weight, floats([1]), scales, zero]
    return [{ type: 'MatMulIntegerToFloat', domain: MICROSOFT, inputs, outputs: [at(node.outputs, 0).name] }]
  },
  gradient: forInference,
}

/** Rows [rows, width] as 8-bit integers around 128 and the scale of each row. */
export interface QuantisedRows {
  readonly values: Tensor
  /** [rows] */
  readonly scales: Tensor
}

/** What 8-bit integers of either sign are scaled with along an axis: max |x| / 127. */
export function symmetricScales(x: Tensor, axis: number, keepDims = false): Tensor {
  // the tiny addend keeps zeros from dividing by zero
  return add(scale(reduceMax(abs(x), [axis], keepDims), 1 / 127), scalar(x, 1e-30))
}

/** Rounds rows [rows, width] to 8 bits, each by its own largest element. */
export function quantiseRows(x: Tensor): QuantisedRows {
  const scales = symmetricScales(x, 1)
  return { values: applyOne(quantiseRowsOperator, [x, scales], {}), scales }
}

/**
 * x W without the rows' own scales, which the caller multiplies the result with: W is int8 [inner, columns] with one scale a
 * column. Made for many rows: several times the speed of float32 where the processor multiplies bytes.
 */
export function matmulRowsInt8(
  { values }: Pick<QuantisedRows, 'values'>,
  weight: Tensor,
  columnScales: Tensor,
): Tensor {
  const zero = addConstant(values.graph, { dtype: 'uint8', dims: [], data: Uint8Array.of(ZERO) })
  return applyOne(matMulRowsInt8Operator, [values, weight, columnScales, zero], {})
}

/** x W for rows rounded to 8 bits and an int8 W as in {@link matmulRowsInt8}. */
export const linearInt8 = ({ values, scales }: QuantisedRows, weight: Tensor, columnScales: Tensor): Tensor =>
  multiply(matmulRowsInt8({ values }, weight, columnScales), reshape(scales, [dimAt(scales, 0), 1]))

export const quantisedOperators = {
  MatMulBlocks: matMulBlocksOperator,
  MatMulHalf: matMulHalfOperator,
  QuantiseRows: quantiseRowsOperator,
  MatMulRowsInt8: matMulRowsInt8Operator,
}

import type { Tensor } from '../graph/graph.ts'
import { MICROSOFT } from '../graph/onnx.ts'
import { applyOne, at, dimAt, mismatch, type Operator, requireDType } from './operator.ts'

/** Inputs of one scale in a block-quantised weight. */
export const QUANTISATION_BLOCK = 32

/**
 * x Wᵀ with W as 8-bit integers around 128 in blocks of 32 inputs, one scale a block (ONNX Runtime's MatMulNBits). At
 * accuracy level 4 the rows too are rounded to 8 bits, block by block, and the products run on integers.
 */
const matMulInt8Operator: Operator<{ readonly columns: number; readonly inner: number }> = {
  name: 'MatMulInt8',
  infer(inputs, { columns, inner }) {
    requireDType('MatMulInt8', inputs, [0, 2], 'float32')
    const [rows, weight, scales] = [at(inputs, 0), at(inputs, 1), at(inputs, 2)]
    const blocks = inner / QUANTISATION_BLOCK
    if (!Number.isInteger(blocks)) throw mismatch('MatMulInt8', inputs, `${inner} inputs are no whole number of blocks`)
    if (dimAt(rows, -1) !== inner) throw mismatch('MatMulInt8', inputs, `the rows must have ${inner} columns`)
    if (weight.dtype !== 'uint8' || weight.shape.join() !== [columns, blocks, QUANTISATION_BLOCK].join()) {
      throw mismatch('MatMulInt8', inputs, `the weight must be uint8[${columns}, ${blocks}, ${QUANTISATION_BLOCK}]`)
    }
    if (scales.shape.join() !== [columns, blocks].join()) {
      throw mismatch('MatMulInt8', inputs, `the scales must be [${columns}, ${blocks}]`)
    }
    return [{ dtype: 'float32', shape: [...rows.shape.slice(0, -1), columns] }]
  },
  emit: (node, { columns, inner }) => [
    {
      type: 'MatMulNBits',
      domain: MICROSOFT,
      inputs: node.inputs.map((tensor) => tensor?.name ?? ''),
      outputs: [at(node.outputs, 0).name],
      attributes: { K: inner, N: columns, bits: 8, block_size: QUANTISATION_BLOCK, accuracy_level: 4 },
    },
  ],
  gradient: { notDifferentiable: 'quantised weights are for inference' },
}

/** x Wᵀ for rows x [rows, inner] and a block-quantised W of `columns` outputs. */
export const matmulInt8 = (rows: Tensor, weight: Tensor, scales: Tensor): Tensor =>
  applyOne(matMulInt8Operator, [rows, weight, scales], {
    columns: Number(dimAt(weight, 0)),
    inner: Number(dimAt(weight, 1)) * QUANTISATION_BLOCK,
  })

export const quantisedOperators = { MatMulInt8: matMulInt8Operator }

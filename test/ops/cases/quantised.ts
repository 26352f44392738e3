import { float32 } from '../../../src/graph/dtype.ts'
import { cast } from '../../../src/ops/elementwise.ts'
import { matmulInt8, matmulRowsInt8, quantiseRows } from '../../../src/ops/quantised.ts'
import { type OperatorCase, operatorCase } from './case.ts'
import { product } from './plain.ts'

const [rows, columns, blocks, block] = [2, 3, 2, 32]
const inner = blocks * block

/** Whole numbers up to 127, which 8-bit rows hold exactly. */
const whole = Float32Array.from({ length: rows * inner }, (_, i) => (i % block === 0 ? 127 : ((i * 29) % 200) - 100))
const weight = Uint8Array.from({ length: columns * inner }, (_, i) => (i * 37) % 256)
const scales = Float32Array.from({ length: columns * blocks }, (_, i) => 2 ** -(i % 4))

/** Rows as they come out of rounding: bytes around 128. */
const bytes = Uint8Array.from(whole, (value) => value + 128)
const signed = Int8Array.from({ length: inner * columns }, (_, i) => ((i * 53) % 255) - 127)
const columnScales = Float32Array.from({ length: columns }, (_, i) => 2 ** -i)

export const quantisedCases: readonly OperatorCase[] = [
  operatorCase('MatMulInt8', 'integers that 8 bits hold exactly', {
    inputs: {
      x: { value: float32(whole, [rows, inner]), shape: ['rows', inner], differentiable: false },
      weight: { value: { dtype: 'uint8', dims: [columns, blocks, block], data: weight } },
      scales: { value: float32(scales, [columns, blocks]), differentiable: false },
    },
    build: (operands) => matmulInt8(operands.x, operands.weight, operands.scales),
    reference(operands) {
      const plain = operands.weight.map((q, i) => (q - 128) * (operands.scales[Math.floor(i / block)] ?? Number.NaN))
      return product(operands.x, plain, { rows, inner, columns, transposeB: true })
    },
  }),
  operatorCase('QuantiseRows', 'whole numbers whose largest is 127: the scale is one', {
    inputs: { x: { value: float32(whole, [rows, inner]), shape: ['rows', inner], differentiable: false } },
    build: (operands) => cast(quantiseRows(operands.x).values, 'float32'),
    reference: (operands) => operands.x.map((value) => value + 128),
  }),
  operatorCase('MatMulRowsInt8', 'bytes around 128 with signed bytes', {
    inputs: {
      values: { value: { dtype: 'uint8', dims: [rows, inner], data: bytes }, shape: ['rows', inner] },
      weight: { value: { dtype: 'int8', dims: [inner, columns], data: signed } },
      scales: { value: float32(columnScales, [columns]), differentiable: false },
    },
    build: (operands) => matmulRowsInt8({ values: operands.values }, operands.weight, operands.scales),
    reference(operands) {
      const centred = operands.values.map((value) => value - 128)
      const plain = operands.weight.map((q, i) => q * (operands.scales[i % columns] ?? Number.NaN))
      return product(centred, plain, { rows, inner, columns })
    },
  }),
]

import { float16ToNumber } from '../../../src/checkpoint/half.ts'
import { float32 } from '../../../src/graph/dtype.ts'
import { cast } from '../../../src/ops/elementwise.ts'
import { matmulBlocks, matmulHalf, matmulRowsInt8, quantiseRows } from '../../../src/ops/quantised.ts'
import { type OperatorCase, operatorCase } from './case.ts'
import { product } from './plain.ts'

const [rows, columns, blocks, block] = [2, 3, 2, 32]
const inner = blocks * block

/** Whole numbers up to 127, which 8-bit rows hold exactly. */
const whole = Float32Array.from({ length: rows * inner }, (_, i) => (i % block === 0 ? 127 : ((i * 29) % 200) - 100))
const weight = Uint8Array.from({ length: columns * inner }, (_, i) => (i * 37) % 256)
const scales = Float32Array.from({ length: columns * blocks }, (_, i) => 2 ** -(i % 4))

/** Two integers of 4 bits a byte, the first in its low half. */
const nibbles = Uint8Array.from({ length: (columns * inner) / 2 }, (_, i) => (i * 37 + 11) % 256)
/** Bits of float16 numbers of either sign between 2^-14 and 2. */
const halves = Uint16Array.from({ length: columns * inner }, (_, i) => ((i % 2) << 15) | (0x400 + ((i * 377) % 0x3c00)))

/** Rows as they come out of rounding: bytes around 128. */
const bytes = Uint8Array.from(whole, (value) => value + 128)
const signed = Int8Array.from({ length: inner * columns }, (_, i) => ((i * 53) % 255) - 127)
const columnScales = Float32Array.from({ length: columns }, (_, i) => 2 ** -i)

export const quantisedCases: readonly OperatorCase[] = [
  operatorCase('MatMulBlocks', 'integers that 8 bits hold exactly', {
    inputs: {
      x: { value: float32(whole, [rows, inner]), shape: ['rows', inner], differentiable: false },
      weight: { value: { dtype: 'uint8', dims: [columns, blocks, block], data: weight } },
      scales: { value: float32(scales, [columns, blocks]), differentiable: false },
    },
    build: (operands) => matmulBlocks(operands.x, operands.weight, operands.scales),
    reference(operands) {
      const plain = operands.weight.map((q, i) => (q - 128) * (operands.scales[Math.floor(i / block)] ?? Number.NaN))
      return product(operands.x, plain, { rows, inner, columns, transposeB: true })
    },
  }),
  operatorCase('MatMulBlocks', 'integers of 4 bits around 8', {
    inputs: {
      x: { value: float32(whole, [rows, inner]), shape: ['rows', inner], differentiable: false },
      weight: { value: { dtype: 'uint8', dims: [columns, blocks, block / 2], data: nibbles } },
      scales: { value: float32(scales, [columns, blocks]), differentiable: false },
    },
    build: (operands) => matmulBlocks(operands.x, operands.weight, operands.scales, 4),
    reference(operands) {
      const plain = Array.from({ length: columns * inner }, (_, i) => {
        const byte = operands.weight[Math.floor(i / 2)] ?? Number.NaN
        const q = i % 2 === 0 ? byte % 16 : Math.floor(byte / 16)
        return (q - 8) * (operands.scales[Math.floor(i / block)] ?? Number.NaN)
      })
      return product(operands.x, plain, { rows, inner, columns, transposeB: true })
    },
  }),
  operatorCase('MatMulHalf', 'a weight in float16', {
    inputs: {
      x: { value: float32(whole, [rows, inner]), shape: ['rows', inner], differentiable: false },
      weight: { value: { dtype: 'float16', dims: [columns, inner], data: halves } },
    },
    build: (operands) => matmulHalf(operands.x, operands.weight),
    reference: (operands) =>
      product(operands.x, operands.weight.map(float16ToNumber), { rows, inner, columns, transposeB: true }),
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

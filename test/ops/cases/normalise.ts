import { add } from '../../../src/ops/elementwise.ts'
import { cosine, l2Normalise, meanSquaredError, rmsNorm, rotary, softmax } from '../../../src/ops/normalise.ts'
import { indices, type OperatorCase, operatorCase, values } from './case.ts'
import { softmax as plainSoftmax, rowsOf, sum } from './plain.ts'

const width = 4
const norm = (row: Float64Array) => Math.sqrt(sum(row.map((x) => x * x)))
const dot = (a: Float64Array, b: Float64Array) => sum(a.map((x, i) => x * (b[i] ?? 0)))

const frequencies = [1, 0.1]
const table = (of: (angle: number) => number, pairs: number) => {
  const data = Array.from({ length: 8 * pairs }, (_, i) => of(Math.floor(i / pairs) * (frequencies[i % pairs] ?? 0)))
  const dims = [8, pairs]
  return { value: { dtype: 'float32', dims, data: Float32Array.from(data) } as const, differentiable: false }
}

/** Half-split convention: dimension i of the first half turns with dimension i of the second; the rest stays. */
function rotated(x: Float64Array, positions: Float64Array, headDim: number, rotaryDim: number): number[] {
  const [hidden, half] = [8, rotaryDim / 2]
  return rowsOf(x, hidden).flatMap((row, place) =>
    rowsOf(row, headDim).flatMap((head) =>
      [...head].map((value, i) => {
        if (i >= rotaryDim) return value
        const angle = (positions[place] ?? 0) * (frequencies[i % half] ?? 0)
        const partner = head[i < half ? i + half : i - half] ?? 0
        return value * Math.cos(angle) + (i < half ? -1 : 1) * partner * Math.sin(angle)
      }),
    ),
  )
}

const rotaries = [
  { heads: 2, rotaryDim: 0, turning: 4, title: 'two heads' },
  { heads: 1, rotaryDim: 4, turning: 4, title: 'half of one head' },
].map(({ heads, rotaryDim, turning, title }) =>
  operatorCase('Rotary', title, {
    inputs: {
      x: values([2, 3, 8], -1, 1, ['batch', 'length', 8]),
      positions: indices([0, 1, 2, 5, 6, 7], [2, 3], ['batch', 'length']),
      cos: table(Math.cos, 2),
      sin: table(Math.sin, 2),
    },
    build: ({ x, positions, cos, sin }) => rotary(x, positions, { heads, rotaryDim, cos, sin }),
    reference: ({ x, positions }) => rotated(x, positions, 8 / heads, turning),
  }),
)

export const normaliseCases: readonly OperatorCase[] = [
  ...[1e-5, 0.3].map((epsilon) =>
    operatorCase('RmsNorm', `epsilon ${epsilon}`, {
      inputs: { x: values([2, 3, width], -2, 2, ['batch', 3, width]), weight: values([width]) },
      build: ({ x, weight }) => rmsNorm(x, weight, epsilon),
      reference: ({ x, weight }) =>
        rowsOf(x, width).flatMap((row) => {
          const scale = 1 / Math.sqrt(norm(row) ** 2 / width + epsilon)
          return [...row].map((value, i) => value * scale * (weight[i] ?? 0))
        }),
    }),
  ),
  operatorCase('RmsNorm', 'a normalised residual', {
    inputs: { x: values([3, width]), weight: values([width]) },
    build: ({ x, weight }) => add(x, rmsNorm(x, weight, 1e-5)),
  }),
  operatorCase('Softmax', 'over the last axis', {
    inputs: { x: values([2, 2, 3], -3, 3, ['batch', 2, 'length']) },
    build: ({ x }) => softmax(x),
    reference: ({ x }) => rowsOf(x, 3).flatMap((row) => [...plainSoftmax(row)]),
  }),
  operatorCase('Softmax', 'with positions that a bias hides', {
    inputs: {
      x: values([2, 3]),
      bias: { value: { dtype: 'float32', dims: [3], data: Float32Array.of(0, -1e9, 0) }, differentiable: false },
    },
    build: ({ x, bias }) => softmax(add(x, bias)),
    reference: ({ x }) =>
      rowsOf(x, 3).flatMap((row) => {
        const [first = 0, last = 0] = plainSoftmax(Float64Array.of(row[0] ?? 0, row[2] ?? 0))
        return [first, 0, last]
      }),
  }),
  ...rotaries,
  operatorCase('Sqrt', 'l2Normalise', {
    inputs: { x: values([2, 3], 0.5, 2) },
    build: ({ x }) => l2Normalise(x),
    reference: ({ x }) => rowsOf(x, 3).flatMap((row) => [...row.map((value) => value / norm(row))]),
  }),
  operatorCase('Sqrt', 'cosine', {
    inputs: { a: values([2, 3], 0.5, 2), b: values([2, 3], -2, -0.5) },
    build: ({ a, b }) => cosine(a, b),
    reference: ({ a, b }) =>
      rowsOf(a, 3).map((row, i) => {
        const other = rowsOf(b, 3)[i] ?? new Float64Array(3)
        return dot(row, other) / (norm(row) * norm(other))
      }),
  }),
  operatorCase('ReduceMean', 'mean squared error', {
    inputs: { a: values([2, 3]), b: values([2, 3]) },
    build: ({ a, b }) => meanSquaredError(a, b),
    reference: ({ a, b }) => [sum(a.map((value, i) => (value - (b[i] ?? 0)) ** 2)) / 6],
  }),
]

import { gemm, linear, matmul } from '../../../src/ops/matmul.ts'
import { type OperatorCase, operatorCase, values } from './case.ts'
import { broadcastAt, coordinatesOf, product } from './plain.ts'

const [rows, inner, columns] = [3, 4, 2]
const flips = [
  { transposeA: false, transposeB: false },
  { transposeA: false, transposeB: true },
  { transposeA: true, transposeB: false },
  { transposeA: true, transposeB: true },
]
const shapeA = (transposed: boolean) => (transposed ? [inner, rows] : [rows, inner])
const shapeB = (transposed: boolean) => (transposed ? [columns, inner] : [inner, columns])

const batched = flips.map(({ transposeA, transposeB }) => {
  const [a, b] = [
    [2, ...shapeA(transposeA)],
    [2, ...shapeB(transposeB)],
  ]
  const size = { rows, inner, columns, transposeA, transposeB, alpha: 0.5 }
  return operatorCase('MatMul', `two batches, alpha, transposed ${transposeA} ${transposeB}`, {
    inputs: { a: values(a), b: values(b) },
    build: (x) => matmul(x.a, x.b, { transposeA, transposeB, alpha: 0.5 }),
    reference: (x) =>
      [0, 1].flatMap((batch) =>
        product(x.a.subarray(batch * rows * inner), x.b.subarray(batch * inner * columns), size),
      ),
  })
})

const shared = operatorCase('MatMul', 'one matrix for all batches, symbolic rows', {
  inputs: { a: values([2, 3, rows, inner], -1, 1, ['batch', 3, 'rows', inner]), b: values([inner, columns]) },
  build: ({ a, b }) => matmul(a, b),
  reference: ({ a, b }) =>
    Array.from({ length: 6 }, (_, i) => product(a.subarray(i * rows * inner), b, { rows, inner, columns })).flat(),
})

const broadcastBatches = operatorCase('MatMul', 'batches of both operands broadcast', {
  inputs: { a: values([2, 1, rows, inner]), b: values([3, columns, inner]) },
  build: ({ a, b }) => matmul(a, b, { transposeB: true, alpha: 2 }),
  reference: ({ a, b }) =>
    coordinatesOf([2, 3]).flatMap(([i = 0, j = 0]) =>
      product(a.subarray(i * rows * inner), b.subarray(j * inner * columns), {
        rows,
        inner,
        columns,
        transposeB: true,
        alpha: 2,
      }),
    ),
})

const addends = [[rows, columns], [columns], [rows, 1], [1, columns], []]

const gemms = flips.flatMap(({ transposeA, transposeB }, index) =>
  addends.slice(index === 0 ? 0 : 3).map((c) => {
    const size = { rows, inner, columns, transposeA, transposeB, alpha: -1.5 }
    return operatorCase('Gemm', `addend [${c}], alpha, transposed ${transposeA} ${transposeB}`, {
      inputs: { a: values(shapeA(transposeA)), b: values(shapeB(transposeB)), c: values(c) },
      build: (x) => gemm(x.a, x.b, x.c, { transposeA, transposeB, alpha: -1.5 }),
      reference(x) {
        const places = coordinatesOf([rows, columns])
        return product(x.a, x.b, size).map((value, i) => value + broadcastAt(x.c, c, places[i] ?? []))
      },
    })
  }),
)

export const matmulCases: readonly OperatorCase[] = [
  ...batched,
  shared,
  broadcastBatches,
  ...gemms,
  ...flips.map(({ transposeA, transposeB }) =>
    operatorCase('Gemm', `no addend, transposed ${transposeA} ${transposeB}`, {
      inputs: { a: values(shapeA(transposeA)), b: values(shapeB(transposeB)) },
      build: (x) => gemm(x.a, x.b, undefined, { transposeA, transposeB }),
      reference: (x) => product(x.a, x.b, { rows, inner, columns, transposeA, transposeB }),
    }),
  ),
  operatorCase('Gemm', 'a linear layer on symbolic rows', {
    inputs: {
      x: values([rows, inner], -1, 1, ['rows', inner]),
      weight: values([columns, inner]),
      base: values([rows, columns], -1, 1, ['rows', columns]),
    },
    build: ({ x, weight, base }) => linear(x, weight, base, 2),
    reference: ({ x, weight, base }) =>
      product(x, weight, { rows, inner, columns, transposeB: true, alpha: 2 }).map(
        (value, i) => value + (base[i] ?? 0),
      ),
  }),
]

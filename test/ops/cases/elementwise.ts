import type { Tensor } from '../../../src/graph/graph.ts'
import {
  abs,
  add,
  cast,
  divide,
  equal,
  exp,
  less,
  log,
  multiply,
  negate,
  round,
  sigmoid,
  sign,
  silu,
  sqrt,
  stopGradient,
  subtract,
  where,
} from '../../../src/ops/elementwise.ts'
import { booleans, indices, type OperatorCase, operatorCase, spread, values } from './case.ts'
import { broadcastAt, coordinatesOf } from './plain.ts'

type Binary = [string, (a: Tensor, b: Tensor) => Tensor, (a: number, b: number) => number, number]

const binaries: Binary[] = [
  ['Add', add, (a, b) => a + b, -1],
  ['Sub', subtract, (a, b) => a - b, -1],
  ['Mul', multiply, (a, b) => a * b, -1],
  ['Div', divide, (a, b) => a / b, 0.7],
]

/** Pairs of shapes that broadcast, with what they broadcast to. */
const broadcasts = [
  { a: [2, 3], b: [2, 3], to: [2, 3] },
  { a: [2, 3], b: [3], to: [2, 3] },
  { a: [], b: [2, 3], to: [2, 3] },
  { a: [2, 1, 3], b: [4, 1], to: [2, 4, 3] },
  { a: [1, 3], b: [2, 1], to: [2, 3] },
]

const binaryCases = binaries.flatMap(([operator, build, plain, low]) =>
  broadcasts.map(({ a, b, to }) =>
    operatorCase(operator, `[${a}] and [${b}]`, {
      inputs: { a: values(a), b: values(b, low, 1.7) },
      build: (tensors) => build(tensors.a, tensors.b),
      reference: (data) =>
        coordinatesOf(to).map((place) => plain(broadcastAt(data.a, a, place), broadcastAt(data.b, b, place))),
    }),
  ),
)

const symbolic = operatorCase('Mul', 'symbolic axes that broadcast', {
  inputs: { a: values([2, 3, 1], -1, 1, ['batch', 'length', 1]), b: values([2, 1, 4], -1, 1, ['batch', 1, 4]) },
  build: ({ a, b }) => multiply(a, b),
  reference: ({ a, b }) =>
    coordinatesOf([2, 3, 4]).map((place) => broadcastAt(a, [2, 3, 1], place) * broadcastAt(b, [2, 1, 4], place)),
})

const logistic = (x: number) => 1 / (1 + Math.exp(-x))

const unaries: [string, (x: Tensor) => Tensor, (x: number) => number, number, number][] = [
  ['Neg', negate, (x) => -x, -2, 2],
  ['Exp', exp, Math.exp, -2, 2],
  ['Log', log, Math.log, 0.5, 3],
  ['Sqrt', sqrt, Math.sqrt, 0.5, 3],
  ['Sigmoid', sigmoid, logistic, -3, 3],
  ['Silu', silu, (x) => x * logistic(x), -3, 3],
]

const unaryCases = unaries.map(([operator, build, plain, low, high]) =>
  operatorCase(operator, 'every element', {
    inputs: { x: values([3, 4], low, high) },
    build: ({ x }) => build(x),
    reference: ({ x }) => x.map(plain),
  }),
)

export const elementwiseCases: readonly OperatorCase[] = [
  ...binaryCases,
  symbolic,
  ...unaryCases,
  operatorCase('Abs', 'away from its kink', {
    inputs: { x: spread([3, 4]) },
    build: ({ x }) => abs(x),
    reference: ({ x }) => x.map(Math.abs),
  }),
  operatorCase('Sign', 'of float32', {
    inputs: { x: { ...spread([5]), differentiable: false } },
    build: ({ x }) => sign(x),
    reference: ({ x }) => x.map(Math.sign),
  }),
  operatorCase('Round', 'halves to even', {
    inputs: {
      x: {
        value: { dtype: 'float32', dims: [5], data: Float32Array.of(0.5, 1.5, -2.5, 2.4, -0.6) },
        differentiable: false,
      },
    },
    build: ({ x }) => round(x),
    reference: () => [0, 2, -2, 2, -1],
  }),
  operatorCase('Equal', 'of integers, broadcast', {
    inputs: { a: indices([1, 2, 3], [3]), b: indices([3, 1], [2, 1]) },
    build: ({ a, b }) => equal(a, b),
    reference: () => [0, 0, 1, 1, 0, 0],
  }),
  operatorCase('Less', 'of integers, broadcast', {
    inputs: { a: indices([1, 2, 3], [3]), b: indices([3, 1], [2, 1]) },
    build: ({ a, b }) => less(a, b),
    reference: () => [1, 1, 0, 0, 0, 0],
  }),
  operatorCase('Where', 'every operand broadcast', {
    inputs: { condition: booleans([1, 0, 0], [3]), a: values([2, 1]), b: values([2, 3]) },
    build: ({ condition, a, b }) => where(condition, a, b),
    reference: ({ condition, a, b }) =>
      coordinatesOf([2, 3]).map((place) =>
        broadcastAt(condition, [3], place) ? broadcastAt(a, [2, 1], place) : broadcastAt(b, [2, 3], place),
      ),
  }),
  operatorCase('Cast', 'through int32, where no gradient passes', {
    inputs: { x: { ...spread([5]), differentiable: false } },
    build: ({ x }) => cast(x, 'int32'),
    reference: ({ x }) => x.map(Math.trunc),
  }),
  operatorCase('Cast', 'through float16 and back', {
    inputs: { x: values([2, 3]) },
    build: ({ x }) => cast(cast(x, 'float16'), 'float32'),
    reference: ({ x }) => x,
    tolerance: 2 ** -11,
    // coarse rounding, and a linear function: large steps
    rounding: 2 ** -11,
    step: 4,
  }),
  operatorCase('StopGradient', 'is the identity', {
    inputs: { x: { ...values([2, 3]), differentiable: false } },
    build: ({ x }) => stopGradient(x),
    reference: ({ x }) => x,
  }),
]

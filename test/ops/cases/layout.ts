import type { Tensor } from '../../../src/graph/graph.ts'
import { add, multiply } from '../../../src/ops/elementwise.ts'
import { concat, expand, reshape, sizeScalar, slice, split, transpose } from '../../../src/ops/layout.ts'
import { type OperatorCase, operatorCase, values } from './case.ts'
import { broadcastAt, coordinatesOf, rowsOf } from './plain.ts'

const cube = (shape: readonly (number | string)[] = [2, 3, 4]) => values([2, 3, 4], -1, 1, shape)

/** Part of a cube [2, 3, 4] along its second axis. */
const middle = (x: Float64Array, start: number, end: number) =>
  coordinatesOf([2, end - start, 4]).map(([i = 0, j = 0, k = 0]) => broadcastAt(x, [2, 3, 4], [i, j + start, k]))

export const layoutCases: readonly OperatorCase[] = [
  operatorCase('Reshape', 'static', {
    inputs: { x: cube() },
    build: ({ x }) => reshape(x, [4, -1]),
    reference: ({ x }) => x,
  }),
  operatorCase('Reshape', 'from and to two symbolic axes', {
    inputs: { x: cube(['batch', 'length', 4]), scale: values([2, 2, 3, 2], -1, 1, ['batch', 2, 'length', 2]) },
    build: ({ x, scale }) => multiply(reshape(x, ['batch', 2, 'length', 2]), scale),
    reference: ({ x, scale }) => x.map((value, i) => value * (scale[i] ?? 0)),
  }),
  operatorCase('Reshape', 'two symbolic axes joined and parted again', {
    inputs: { x: cube(['batch', 'length', 4]) },
    build: ({ x }) => reshape(transpose(reshape(x, [-1, 4]), [1, 0]), [4, 'batch', 'length']),
    reference: ({ x }) => coordinatesOf([4, 2, 3]).map(([k = 0, i = 0, j = 0]) => broadcastAt(x, [2, 3, 4], [i, j, k])),
  }),
  operatorCase('Transpose', 'a cycle of three axes', {
    inputs: { x: cube(['batch', 3, 'length']) },
    build: ({ x }) => transpose(x, [2, 0, 1]),
    reference: ({ x }) => coordinatesOf([4, 2, 3]).map(([k = 0, i = 0, j = 0]) => broadcastAt(x, [2, 3, 4], [i, j, k])),
  }),
  operatorCase('Expand', 'new and repeated axes', {
    inputs: { x: values([3, 1]) },
    build: ({ x }) => expand(x, [2, 3, 4]),
    reference: ({ x }) => coordinatesOf([2, 3, 4]).map((place) => broadcastAt(x, [3, 1], place)),
  }),
  operatorCase('Expand', 'to the length of a symbolic axis', {
    inputs: { x: values([1, 4]), like: cube(['batch', 'length', 4]) },
    build: ({ x, like }) => multiply(expand(x, ['batch', 'length', 4]), like),
    reference: ({ x, like }) => like.map((value, i) => value * (x[i % 4] ?? 0)),
  }),
  operatorCase('Concat', 'last axis, three operands, one of them twice', {
    inputs: { a: values([2, 3]), b: values([2, 1]) },
    build: ({ a, b }) => concat([a, b, a], -1),
    reference: ({ a, b }) =>
      [0, 1].flatMap((i) => [...a.subarray(3 * i, 3 * i + 3), b[i] ?? 0, ...a.subarray(3 * i, 3 * i + 3)]),
  }),
  operatorCase('Concat', 'symbolic lengths, equal and different ones', {
    inputs: {
      a: values([2, 3], -1, 1, ['past', 3]),
      b: values([4, 3], -1, 1, ['length', 3]),
      c: values([2, 3], -1, 1, ['past', 3]),
    },
    build: ({ a, b, c }) => concat([a, c, b, a], 0),
    reference: ({ a, b, c }) => [...a, ...c, ...b, ...a],
  }),
  operatorCase('Slice', 'in the middle', {
    inputs: { x: cube() },
    build: ({ x }) => slice(x, 1, 1, 2),
    reference: ({ x }) => middle(x, 1, 2),
  }),
  operatorCase('Slice', 'all but the first of a symbolic axis', {
    inputs: { x: cube(['batch', 'length', 4]) },
    build: ({ x }) => slice(x, 1, 1, 'length'),
    reference: ({ x }) => middle(x, 1, 3),
  }),
  operatorCase('Slice', 'the first of a symbolic axis', {
    inputs: { x: cube(['batch', 'length', 4]) },
    build: ({ x }) => slice(x, -2, 0, 1),
    reference: ({ x }) => middle(x, 0, 1),
  }),
  operatorCase('Slice', 'the second part of a joined symbolic axis', {
    inputs: {
      a: { ...values([2, 2, 3], -1, 1, ['batch', 'past', 3]), differentiable: false },
      b: values([2, 4, 3], -1, 1, ['batch', 'length', 3]),
    },
    build: ({ a, b }) => add(slice(concat([a, b, b], 1), 1, 'past', 'length+past'), b),
    reference: ({ b }) => b.map((value) => 2 * value),
  }),
  operatorCase('Split', 'the last axis, of which one part is not used', {
    inputs: { x: values([2, 3, 6], -1, 1, ['batch', 'length', 6]) },
    build({ x }) {
      const [first, , last] = split(x, -1, [2, 1, 3]) as [Tensor, Tensor, Tensor]
      return concat([last, multiply(first, first)], 2)
    },
    reference: ({ x }) =>
      rowsOf(Float64Array.from(x), 6).flatMap(([a = 0, b = 0, , d = 0, e = 0, f = 0]) => [d, e, f, a * a, b * b]),
  }),
  operatorCase('Size', 'a product of symbolic lengths', {
    inputs: { x: { ...cube(['batch', 'length', 4]), differentiable: false } },
    build: ({ x }) => sizeScalar(x.graph, 'batch*length'),
    reference: () => [6],
  }),
]

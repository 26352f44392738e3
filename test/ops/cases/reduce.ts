import type { Tensor } from '../../../src/graph/graph.ts'
import { reduceMax, reduceMean, reduceSum } from '../../../src/ops/reduce.ts'
import { type OperatorCase, operatorCase, spread, values } from './case.ts'
import { coordinatesOf, sum } from './plain.ts'

type Reduce = (x: Tensor, axes?: readonly number[], keepAxes?: boolean) => Tensor

const dims = [2, 3, 4]

/** Groups of elements that fall together when `axes` go. */
function groups(data: Float64Array, axes: readonly number[]): number[][] {
  const found = new Map<string, number[]>()
  coordinatesOf(dims).forEach((place, i) => {
    const key = place.filter((_, axis) => !axes.includes(axis)).join()
    found.set(key, [...(found.get(key) ?? []), data[i] ?? Number.NaN])
  })
  return [...found.values()]
}

const reductions: [string, Reduce, (group: number[]) => number][] = [
  ['ReduceSum', reduceSum, sum],
  ['ReduceMean', reduceMean, (group) => sum(group) / group.length],
  ['ReduceMax', reduceMax, (group) => Math.max(...group)],
]

const forms = [
  { axes: [0, 1, 2], asked: undefined, keepAxes: false },
  { axes: [1], asked: [1], keepAxes: false },
  { axes: [2], asked: [-1], keepAxes: true },
  { axes: [0, 2], asked: [0, 2], keepAxes: false },
]

export const reduceCases: readonly OperatorCase[] = reductions.flatMap(([operator, build, plain]) => [
  ...forms.map(({ axes, asked, keepAxes }) =>
    operatorCase(operator, `axes ${asked ?? 'all'}${keepAxes ? ', kept' : ''}`, {
      inputs: { x: spread(dims) },
      build: ({ x }) => build(x, asked, keepAxes),
      reference: ({ x }) => groups(x, axes).map(plain),
    }),
  ),
  operatorCase(operator, 'symbolic axes', {
    inputs: { x: spread(dims, ['batch', 'length', 4]) },
    build: ({ x }) => build(x, [0, 1]),
    reference: ({ x }) => groups(x, [0, 1]).map(plain),
  }),
  operatorCase(operator, 'one element an axis', {
    inputs: { x: values([1, 3]) },
    build: ({ x }) => build(x, [0]),
    reference: ({ x }) => x,
  }),
])

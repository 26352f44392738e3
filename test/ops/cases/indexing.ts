import { add, exp, multiply } from '../../../src/ops/elementwise.ts'
import { crossEntropy, gather, gatherElements, oneHot, scatterAdd, topK } from '../../../src/ops/indexing.ts'
import { reduceMean, reduceSum } from '../../../src/ops/reduce.ts'
import { indices, type OperatorCase, operatorCase, spread, values } from './case.ts'
import { rowsOf, softmax, sum } from './plain.ts'

const targets = [2, 0, 2]
const negativeLogLikelihoods = (logits: Float64Array) =>
  rowsOf(logits, 4).map((row, i) => -Math.log(softmax(row)[targets[i] ?? -1] ?? Number.NaN))

export const indexingCases: readonly OperatorCase[] = [
  operatorCase('Gather', 'repeated indices', {
    inputs: { table: values([5, 3]), places: indices([4, 1, 4, 4], [2, 2], ['batch', 'length']) },
    build: ({ table, places }) => gather(table, places),
    reference: ({ table, places }) => [...places].flatMap((place) => [...(rowsOf(table, 3)[place] ?? [])]),
  }),
  operatorCase('Gather', 'rows of a symbolic table of cubes', {
    inputs: { table: values([3, 2, 2], -1, 1, ['rows', 2, 2]), places: indices([2, 2, 0], [3]) },
    build: ({ table, places }) => gather(table, places),
    reference: ({ table }) => [2, 2, 0].flatMap((place) => [...(rowsOf(table, 4)[place] ?? [])]),
  }),
  operatorCase('GatherElements', 'last axis, repeated places', {
    inputs: { x: values([2, 4]), places: indices([3, 3, 0, 2, 1, 2], [2, 3]) },
    build: ({ x, places }) => gatherElements(x, places, -1),
    reference: ({ x, places }) => [...places].map((place, i) => rowsOf(x, 4)[Math.floor(i / 3)]?.[place] ?? Number.NaN),
  }),
  operatorCase('GatherElements', 'first axis', {
    inputs: { x: values([3, 2]), places: indices([2, 0], [1, 2]) },
    build: ({ x, places }) => gatherElements(x, places, 0),
    reference: ({ x }) => [x[4] ?? 0, x[1] ?? 0],
  }),
  operatorCase('ScatterAdd', 'places that repeat add up', {
    inputs: { base: values([2, 3]), places: indices([1, 1, 1, 0, 2, 2], [2, 3]), updates: values([2, 3]) },
    build: ({ base, places, updates }) => scatterAdd(base, places, updates, 1),
    reference({ base, places, updates }) {
      const result = base.slice()
      places.forEach((place, i) => {
        const target = Math.floor(i / 3) * 3 + place
        result[target] = (result[target] ?? 0) + (updates[i] ?? 0)
      })
      return result
    },
  }),
  operatorCase('TopK', 'values, in descending order', {
    inputs: { x: spread([3, 5], ['batch', 5]) },
    build: ({ x }) => topK(x, 2).values,
    reference: ({ x }) => rowsOf(x, 5).flatMap((row) => [...row].sort((a, b) => b - a).slice(0, 2)),
  }),
  operatorCase('TopK', 'indices', {
    inputs: { x: { ...spread([2, 5]), differentiable: false } },
    build: ({ x }) => topK(x, 3).indices,
    reference: ({ x }) =>
      rowsOf(x, 5).flatMap((row) => [...row.keys()].sort((a, b) => (row[b] ?? 0) - (row[a] ?? 0)).slice(0, 3)),
  }),
  operatorCase('OneHot', 'a new last axis', {
    inputs: { places: indices([2, 0], [2]) },
    build: ({ places }) => oneHot(places, 3),
    reference: () => [0, 0, 1, 1, 0, 0],
  }),
  operatorCase('CrossEntropy', 'per row', {
    inputs: { logits: values([3, 4], -2, 2, ['labels', 4]), targets: indices(targets, [3], ['labels']) },
    build: (x) => crossEntropy(x.logits, x.targets).nll,
    reference: ({ logits }) => negativeLogLikelihoods(logits),
  }),
  operatorCase('CrossEntropy', 'weighted mean of large logits', {
    inputs: { logits: values([3, 4], 20, 24), targets: indices(targets, [3]), weights: values([3], 0, 1) },
    build: (x) => reduceMean(multiply(crossEntropy(x.logits, x.targets).nll, x.weights)),
    reference: ({ logits, weights }) => [
      sum(negativeLogLikelihoods(logits).map((nll, i) => (nll * (weights[i] ?? 0)) / 3)),
    ],
  }),
  operatorCase('CrossEntropy', 'log-probabilities and likelihood together', {
    inputs: { logits: values([3, 4], -2, 2), targets: indices(targets, [3]) },
    build(x) {
      const { nll, logProbabilities } = crossEntropy(x.logits, x.targets)
      return add(nll, reduceSum(multiply(exp(logProbabilities), logProbabilities), [1]))
    },
    reference: ({ logits }) =>
      negativeLogLikelihoods(logits).map(
        (nll, i) => nll + sum(softmax(rowsOf(logits, 4)[i] ?? new Float64Array()).map((p) => p * Math.log(p))),
      ),
  }),
]

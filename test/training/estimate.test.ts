import { expect, test } from 'vitest'
import { addInput, addOutput, addWeight, createGraph } from '../../src/graph/graph.ts'
import { exp, multiply } from '../../src/ops/elementwise.ts'
import { reshape } from '../../src/ops/layout.ts'
import { matmul } from '../../src/ops/matmul.ts'
import { dimsOf, flopsOf, peakBytesOf, weightUseBytes } from '../../src/training/estimate.ts'

test('symbolic dimensions take the values of the inputs that introduced them', () => {
  const graph = createGraph('dims')
  addInput(graph, 'ids', 'int64', ['batch', 'length'])
  addInput(graph, 'mask', 'float32', ['batch', 'documents'])
  const feeds = { ids: { dims: [3, 7] }, mask: { dims: [3, 2] }, other: { dims: [9] } }
  expect(dimsOf(graph, feeds)).toEqual({ batch: 3, length: 7, documents: 2 })
})

test('results count from their making to their last use, outputs to the end, and a view not at all', () => {
  const graph = createGraph('chain')
  const x = addInput(graph, 'x', 'float32', ['rows', 8])
  const a = exp(x)
  const b = exp(a)
  const c = exp(reshape(b, ['rows', 2, 4]))
  addOutput(graph, 'c', exp(c))
  // at any time one result and the next: 2 · rows · 8 floats
  expect(peakBytesOf(graph)({ rows: 5 })).toBe(2 * 5 * 8 * 4)
  addOutput(graph, 'a', a)
  // a is kept as well
  expect(peakBytesOf(graph)({ rows: 5 })).toBe(3 * 5 * 8 * 4)
})

test('what only outputs follow from is computed last, and keeps what it needs until then', () => {
  const graph = createGraph('late')
  const x = addInput(graph, 'x', 'float32', ['rows', 1])
  const a = exp(x)
  // like the gradient of a parameter, at the beginning of the list but at the end of the run
  addOutput(graph, 'gradient', exp(a))
  const b = exp(a)
  const c = exp(b)
  addOutput(graph, 'end', multiply(c, c))
  // a and c, then the two outputs beside one of them
  expect(peakBytesOf(graph)({ rows: 1 })).toBe(3 * 4)
})

test('operations are those of the products', () => {
  const graph = createGraph('products')
  const x = addInput(graph, 'x', 'float32', ['rows', 6])
  const y = matmul(x, addWeight(graph, 'first', 'float32', [6, 5]))
  addOutput(graph, 'z', matmul(exp(y), addWeight(graph, 'second', 'float32', [5, 4])))
  expect(flopsOf(graph)({ rows: 7 })).toBe(2 * 7 * (6 * 5 + 5 * 4))
})

test('a frozen weight counts once for each product that reads it', () => {
  const graph = createGraph('weights')
  const weight = addWeight(graph, 'weight', 'float32', [6, 6])
  addWeight(graph, 'unused', 'float32', [100])
  const x = addInput(graph, 'x', 'float32', ['rows', 6])
  addOutput(graph, 'y', matmul(matmul(x, weight), weight))
  expect(weightUseBytes(graph)).toBe(2 * 36 * 4)
})

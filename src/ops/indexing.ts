import type { Tensor } from '../graph/graph.ts'
import { type Shape, sameShape, sizeOf } from '../graph/shape.ts'
import { add, exp, multiply, negate, scalar, subtract } from './elementwise.ts'
import { expand, reshape } from './layout.ts'
import { apply, applyOne, at, dimAt, mismatch, type Operator, requireAxis, requireDType } from './operator.ts'
import { reduceSum } from './reduce.ts'

const names = (tensors: readonly (Tensor | undefined)[]) => tensors.map((tensor) => tensor?.name ?? '')

/** Rows of a table: result[i...] = table[indices[i...]]; each row's gradient is the sum over the places it was used in. */
const gatherOperator: Operator<Record<string, never>> = {
  name: 'Gather',
  infer(inputs) {
    requireDType('Gather', inputs, [1], 'int64')
    const [table, indices] = [at(inputs, 0), at(inputs, 1)]
    if (table.shape.length < 1) throw mismatch('Gather', inputs, 'the table needs an axis')
    return [{ dtype: table.dtype, shape: [...indices.shape, ...table.shape.slice(1)] }]
  },
  emit: (node) => [
    { type: 'Gather', inputs: names(node.inputs), outputs: [at(node.outputs, 0).name], attributes: { axis: 0 } },
  ],
  gradient({ inputs, outputGradients, needed }) {
    if (!needed[0]) return [undefined, undefined]
    const [table, indices, g] = [at(inputs, 0), at(inputs, 1), at(outputGradients, 0)]
    const count = sizeOf(indices.shape)
    const width = sizeOf(table.shape.slice(1))
    const rows = reshape(g, [count, width])
    const places = expand(reshape(indices, [count, 1]), [count, width])
    const zeros = expand(scalar(g, 0), [dimAt(table, 0), width])
    return [reshape(scatterAdd(zeros, places, rows, 0), table.shape), undefined]
  },
}
export const gather = (table: Tensor, indices: Tensor): Tensor => applyOne(gatherOperator, [table, indices], {})

/** Picks one element per position along an axis: result[i][j] = x[i][indices[i][j]] for the last axis. */
const gatherElementsOperator: Operator<{ readonly axis: number }> = {
  name: 'GatherElements',
  infer(inputs, { axis }) {
    requireDType('GatherElements', inputs, [1], 'int64')
    requireAxis('GatherElements', inputs, axis)
    const [x, indices] = [at(inputs, 0), at(inputs, 1)]
    requireAligned('GatherElements', inputs, x, indices, axis)
    return [{ dtype: x.dtype, shape: indices.shape }]
  },
  emit: (node, { axis }) => [
    { type: 'GatherElements', inputs: names(node.inputs), outputs: [at(node.outputs, 0).name], attributes: { axis } },
  ],
  gradient({ inputs, attributes, outputGradients }) {
    const [x, indices, g] = [at(inputs, 0), at(inputs, 1), at(outputGradients, 0)]
    return [scatterAdd(expand(scalar(x, 0), x.shape), indices, g, attributes.axis), undefined]
  },
}
export const gatherElements = (x: Tensor, indices: Tensor, axis: number): Tensor =>
  applyOne(gatherElementsOperator, [x, indices], { axis: axis < 0 ? x.shape.length + axis : axis })

/** base with updates added at places along an axis: d base = g, d updates = g at the places. */
const scatterAddOperator: Operator<{ readonly axis: number }> = {
  name: 'ScatterAdd',
  infer(inputs, { axis }) {
    requireDType('ScatterAdd', inputs, [1], 'int64')
    requireAxis('ScatterAdd', inputs, axis)
    const [base, places, updates] = [at(inputs, 0), at(inputs, 1), at(inputs, 2)]
    requireAligned('ScatterAdd', inputs, base, places, axis)
    if (!sameShape(places.shape, updates.shape))
      throw mismatch('ScatterAdd', inputs, 'places and updates differ in shape')
    if (base.dtype !== updates.dtype) throw mismatch('ScatterAdd', inputs, 'base and updates differ in element type')
    return [{ dtype: base.dtype, shape: base.shape }]
  },
  emit: (node, { axis }) => [
    {
      type: 'ScatterElements',
      inputs: names(node.inputs),
      outputs: [at(node.outputs, 0).name],
      attributes: { axis, reduction: 'add' },
    },
  ],
  gradient({ inputs, attributes, outputGradients, needed }) {
    const [places, g] = [at(inputs, 1), at(outputGradients, 0)]
    return [g, undefined, needed[2] ? gatherElements(g, places, attributes.axis) : undefined]
  },
}
export const scatterAdd = (base: Tensor, places: Tensor, updates: Tensor, axis: number): Tensor =>
  applyOne(scatterAddOperator, [base, places, updates], { axis })

/** The k largest along the last axis with their places, in descending order. The values' gradient goes to those places. */
const topKOperator: Operator<{ readonly k: number }> = {
  name: 'TopK',
  infer(inputs, { k }) {
    const x = at(inputs, 0)
    requireAxis('TopK', inputs, x.shape.length - 1)
    const length = dimAt(x, -1)
    if (!Number.isInteger(k) || k < 1) throw mismatch('TopK', inputs, `k = ${k} is not a positive integer`)
    if (typeof length === 'number' && k > length)
      throw mismatch('TopK', inputs, `k = ${k} exceeds the ${length} candidates`)
    const shape: Shape = [...x.shape.slice(0, -1), k]
    return [
      { dtype: x.dtype, shape },
      { dtype: 'int64', shape },
    ]
  },
  emit: (node, { k }, context) => [
    {
      type: 'TopK',
      inputs: [...names(node.inputs), context.ints([k])],
      outputs: node.outputs.map(({ name }) => name),
      attributes: { axis: -1, largest: 1, sorted: 1 },
    },
  ],
  gradient({ inputs, outputs, outputGradients }) {
    const [x, g] = [at(inputs, 0), outputGradients[0]]
    if (!g) return [undefined]
    return [scatterAdd(expand(scalar(x, 0), x.shape), at(outputs, 1), g, x.shape.length - 1)]
  },
}
export function topK(x: Tensor, k: number): { readonly values: Tensor; readonly indices: Tensor } {
  const outputs = apply(topKOperator, [x], { k })
  return { values: at(outputs, 0), indices: at(outputs, 1) }
}

/** Requires the shapes to agree in every axis but one. */
function requireAligned(operator: string, inputs: readonly Tensor[], a: Tensor, b: Tensor, axis: number) {
  const aligned =
    a.shape.length === b.shape.length && a.shape.every((dim, other) => other === axis || dim === b.shape[other])
  if (!aligned) throw mismatch(operator, inputs, `the shapes differ in more than axis ${axis}`)
}

/** 1 at the index, 0 elsewhere, along a new last axis. */
const oneHotOperator: Operator<{ readonly depth: number }> = {
  name: 'OneHot',
  infer(inputs, { depth }) {
    requireDType('OneHot', inputs, [0], 'int64')
    return [{ dtype: 'float32', shape: [...at(inputs, 0).shape, depth] }]
  },
  emit: (node, { depth }, context) => [
    {
      type: 'OneHot',
      inputs: [...names(node.inputs), context.ints([depth]), context.floats([0, 1])],
      outputs: [at(node.outputs, 0).name],
    },
  ],
  gradient: { notDifferentiable: 'indices are integers' },
}
export const oneHot = (indices: Tensor, depth: number): Tensor => applyOne(oneHotOperator, [indices], { depth })

/**
 * Negative log-likelihood of a target per row of logits [rows, classes]:
 * nll = -log softmax(logits)[target]; d logits = g · softmax(logits), less g at the target. The log-probabilities are a
 * second result, whose gradient h adds h - softmax(logits) · Σ h.
 */
const crossEntropyOperator: Operator<Record<string, never>> = {
  name: 'CrossEntropy',
  infer(inputs) {
    requireDType('CrossEntropy', inputs, [0], 'float32')
    requireDType('CrossEntropy', inputs, [1], 'int64')
    const [logits, targets] = [at(inputs, 0), at(inputs, 1)]
    if (logits.shape.length !== 2 || targets.shape.length !== 1 || logits.shape[0] !== targets.shape[0]) {
      throw mismatch('CrossEntropy', inputs, 'expected logits [rows, classes] and targets [rows]')
    }
    return [
      { dtype: 'float32', shape: targets.shape },
      { dtype: 'float32', shape: logits.shape },
    ]
  },
  emit(node, _attributes, context) {
    const [logits, targets] = [at(names(node.inputs), 0), at(names(node.inputs), 1)]
    const [nll, logProbabilities] = [at(node.outputs, 0).name, at(node.outputs, 1).name]
    const [column, picked, flat] = [context.temporary(), context.temporary(), context.temporary()]
    return [
      { type: 'LogSoftmax', inputs: [logits], outputs: [logProbabilities], attributes: { axis: -1 } },
      { type: 'Reshape', inputs: [targets, context.ints([-1, 1])], outputs: [column] },
      { type: 'GatherElements', inputs: [logProbabilities, column], outputs: [picked], attributes: { axis: 1 } },
      { type: 'Reshape', inputs: [picked, context.ints([-1])], outputs: [flat] },
      { type: 'Neg', inputs: [flat], outputs: [nll] },
    ]
  },
  gradient({ inputs, outputs, outputGradients }) {
    const [targets, logProbabilities, [g, byLog]] = [at(inputs, 1), at(outputs, 1), outputGradients]
    const probabilities = exp(logProbabilities)
    const fromLog = byLog && subtract(byLog, multiply(probabilities, reduceSum(byLog, [1], true)))
    if (!g) return [fromLog, undefined]
    const rows = dimAt(g, 0)
    const column = reshape(g, [rows, 1])
    const fromNll = scatterAdd(multiply(probabilities, column), reshape(targets, [rows, 1]), negate(column), 1)
    return [fromLog ? add(fromNll, fromLog) : fromNll, undefined]
  },
}

/** Cross-entropy per row [rows] and the log-probabilities it was read from [rows, classes]. */
export function crossEntropy(
  logits: Tensor,
  targets: Tensor,
): { readonly nll: Tensor; readonly logProbabilities: Tensor } {
  const outputs = apply(crossEntropyOperator, [logits, targets], {})
  return { nll: at(outputs, 0), logProbabilities: at(outputs, 1) }
}

export const indexingOperators = {
  Gather: gatherOperator,
  GatherElements: gatherElementsOperator,
  ScatterAdd: scatterAddOperator,
  TopK: topKOperator,
  OneHot: oneHotOperator,
  CrossEntropy: crossEntropyOperator,
}

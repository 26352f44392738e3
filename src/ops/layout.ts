import { addConstant, type Graph, type Tensor } from '../graph/graph.ts'
import {
  addDims,
  broadcastShapes,
  canonicalDim,
  type Dim,
  divideDims,
  type Shape,
  sameShape,
  showShape,
  sizeOf,
  subtractDims,
} from '../graph/shape.ts'
import { scalar } from './elementwise.ts'
import { apply, applyOne, applyTo, at, dimAt, mismatch, type Operator, requireAxis } from './operator.ts'

const nameOf = (tensors: readonly (Tensor | undefined)[], index = 0) => at(tensors, index).name

/** Same values in the same order under another shape; the gradient takes the shape back. */
const reshapeOperator: Operator<{ readonly shape: Shape }> = {
  name: 'Reshape',
  infer(inputs, { shape }) {
    const x = at(inputs, 0)
    if (sizeOf(x.shape) !== sizeOf(shape)) {
      throw mismatch('Reshape', inputs, `${sizeOf(x.shape)} values do not fill ${showShape(shape)}`)
    }
    return [{ dtype: x.dtype, shape }]
  },
  emit(node, { shape }, context) {
    const unknown = shape.filter((dim) => typeof dim === 'string').length
    const [x, y] = [nameOf(node.inputs), at(node.outputs, 0).name]
    if (unknown <= 1 && !shape.includes(0)) {
      const inferring = context.ints(shape.map((dim) => (typeof dim === 'number' ? dim : -1)))
      return [{ type: 'Reshape', inputs: [x, inferring], outputs: [y] }]
    }
    // without allowzero a dimension of 0 would mean "as in the operand"
    return [{ type: 'Reshape', inputs: [x, context.shapeVector(shape)], outputs: [y], attributes: { allowzero: 1 } }]
  },
  gradient: ({ inputs, outputGradients }) => [reshape(at(outputGradients, 0), at(inputs, 0).shape)],
}

/** Reshapes; one dimension may be -1 and is inferred. */
export function reshape(x: Tensor, shape: readonly Dim[]): Tensor {
  const inferred = shape.indexOf(-1)
  let target: Shape = shape.map(canonicalDim)
  if (inferred >= 0) {
    const known = sizeOf(shape.filter((_, axis) => axis !== inferred))
    const rest = divideDims(sizeOf(x.shape), known)
    if (rest === undefined) throw mismatch('Reshape', [x], `${sizeOf(x.shape)} is not a multiple of ${known}`)
    target = target.map((dim, axis) => (axis === inferred ? rest : dim))
  }
  return sameShape(x.shape, target) ? x : applyOne(reshapeOperator, [x], { shape: target })
}

/** Reorders axes; the gradient reorders them back. */
const transposeOperator: Operator<{ readonly order: readonly number[] }> = {
  name: 'Transpose',
  infer(inputs, { order }) {
    const x = at(inputs, 0)
    const complete = order.length === x.shape.length && x.shape.every((_, axis) => order.includes(axis))
    if (!complete) throw mismatch('Transpose', inputs, `[${order}] is not an order of its axes`)
    return [{ dtype: x.dtype, shape: order.map((axis) => at(x.shape, axis)) }]
  },
  emit: (node, { order }) => [
    {
      type: 'Transpose',
      inputs: [nameOf(node.inputs)],
      outputs: [at(node.outputs, 0).name],
      attributes: { perm: order },
    },
  ],
  gradient({ attributes, outputGradients }) {
    const back = attributes.order.map((_, axis) => attributes.order.indexOf(axis))
    return [transpose(at(outputGradients, 0), back)]
  },
}
export const transpose = (x: Tensor, order: readonly number[]): Tensor => applyOne(transposeOperator, [x], { order })

/** Repeats along axes of length 1; the gradient sums (done by the reverse walk). */
const expandOperator: Operator<{ readonly shape: Shape }> = {
  name: 'Expand',
  infer(inputs, { shape }) {
    const x = at(inputs, 0)
    const result = broadcastShapes(x.shape, shape)
    if (!result || !sameShape(result, shape))
      throw mismatch('Expand', inputs, `it does not expand to ${showShape(shape)}`)
    return [{ dtype: x.dtype, shape }]
  },
  emit: (node, { shape }, context) => [
    { type: 'Expand', inputs: [nameOf(node.inputs), context.shapeVector(shape)], outputs: [at(node.outputs, 0).name] },
  ],
  gradient: ({ outputGradients }) => [at(outputGradients, 0)],
}
export const expand = (x: Tensor, shape: Shape): Tensor =>
  sameShape(x.shape, shape) ? x : applyOne(expandOperator, [x], { shape })

/** Joins along one axis; each operand's gradient is its slice. */
const concatOperator: Operator<{ readonly axis: number }> = {
  name: 'Concat',
  infer(inputs, { axis }) {
    const first = at(inputs, 0)
    requireAxis('Concat', inputs, axis)
    const fits = inputs.every(
      ({ shape, dtype }) =>
        dtype === first.dtype &&
        shape.length === first.shape.length &&
        shape.every((dim, other) => other === axis || dim === first.shape[other]),
    )
    if (!fits) throw mismatch('Concat', inputs, `the operands differ in more than axis ${axis}`)
    const length = inputs.map(({ shape }) => at(shape, axis)).reduce(addDims)
    return [{ dtype: first.dtype, shape: first.shape.map((dim, other) => (other === axis ? length : dim)) }]
  },
  emit: (node, { axis }) => [
    {
      type: 'Concat',
      inputs: node.inputs.map((tensor) => tensor?.name ?? ''),
      outputs: [at(node.outputs, 0).name],
      attributes: { axis },
    },
  ],
  gradient({ inputs, attributes, outputGradients }) {
    const g = at(outputGradients, 0)
    let start: Dim = 0
    return inputs.map((input) => {
      const end: Dim = addDims(start, at(input.shape, attributes.axis))
      const part = slice(g, attributes.axis, start, end)
      start = end
      return part
    })
  },
}
export function concat(tensors: readonly Tensor[], axis: number): Tensor {
  const first = at(tensors, 0)
  if (tensors.length === 1) return first
  return applyOne(concatOperator, tensors, { axis: axis < 0 ? first.shape.length + axis : axis })
}

/** Positions [start, end) of one axis; the gradient is g between zeros. */
const sliceOperator: Operator<{ readonly axis: number; readonly start: Dim; readonly end: Dim }> = {
  name: 'Slice',
  infer(inputs, { axis, start, end }) {
    const x = at(inputs, 0)
    requireAxis('Slice', inputs, axis)
    const [length, behind] = [subtractDims(end, start), subtractDims(at(x.shape, axis), end)]
    if (length === undefined) throw mismatch('Slice', inputs, `cannot tell the length of ${start} to ${end}`)
    if (typeof length === 'number' && length < 0) throw mismatch('Slice', inputs, `${start} lies behind ${end}`)
    if (typeof start === 'number' && start < 0) throw mismatch('Slice', inputs, `the start ${start} is negative`)
    if (typeof behind === 'number' && behind < 0) {
      throw mismatch('Slice', inputs, `${end} lies behind the end of axis ${axis}`)
    }
    return [{ dtype: x.dtype, shape: x.shape.map((dim, other) => (other === axis ? length : dim)) }]
  },
  emit: (node, { axis, start, end }, context) => [
    {
      type: 'Slice',
      inputs: [nameOf(node.inputs), context.shapeVector([start]), context.shapeVector([end]), context.ints([axis])],
      outputs: [at(node.outputs, 0).name],
    },
  ],
  gradient({ inputs, attributes, outputGradients }) {
    const [x, g] = [at(inputs, 0), at(outputGradients, 0)]
    const { axis, start, end } = attributes
    const zeros = (length: Dim) =>
      expand(
        scalar(x, 0),
        x.shape.map((dim, other) => (other === axis ? length : dim)),
      )
    const after = subtractDims(at(x.shape, axis), end)
    if (after === undefined) throw mismatch('Slice', inputs, 'the length behind the slice is unknown')
    const parts = [start === 0 ? undefined : zeros(start), g, after === 0 ? undefined : zeros(after)]
    return [
      concat(
        parts.filter((part): part is Tensor => part !== undefined),
        axis,
      ),
    ]
  },
}
export function slice(x: Tensor, axis: number, start: Dim, end: Dim): Tensor {
  const front = axis < 0 ? x.shape.length + axis : axis
  return start === 0 && end === dimAt(x, front) ? x : applyOne(sliceOperator, [x], { axis: front, start, end })
}

/** Cuts an axis into parts of given lengths; their gradients are joined, zeros where none flows. */
const splitOperator: Operator<{ readonly axis: number; readonly lengths: readonly number[] }> = {
  name: 'Split',
  infer(inputs, { axis, lengths }) {
    const x = at(inputs, 0)
    requireAxis('Split', inputs, axis)
    if (x.shape[axis] !== lengths.reduce((sum, length) => sum + length, 0)) {
      throw mismatch('Split', inputs, `the lengths [${lengths.join(', ')}] do not make up axis ${axis}`)
    }
    return lengths.map((length) => ({
      dtype: x.dtype,
      shape: x.shape.map((dim, other) => (other === axis ? length : dim)),
    }))
  },
  emit: (node, { axis, lengths }, context) => [
    {
      type: 'Split',
      inputs: [at(node.inputs, 0).name, context.ints(lengths)],
      outputs: node.outputs.map(({ name }) => name),
      attributes: { axis },
    },
  ],
  gradient: ({ outputs, attributes, outputGradients }) => [
    concat(
      outputs.map((part, index) => outputGradients[index] ?? expand(scalar(part, 0), part.shape)),
      attributes.axis,
    ),
  ],
}
/** Parts of `lengths` along an axis, counted from the front, or from the back where negative. */
export function split(x: Tensor, axis: number, lengths: readonly number[]): readonly Tensor[] {
  return apply(splitOperator, [x], { axis: axis < 0 ? x.shape.length + axis : axis, lengths })
}

/** A size that is only known at run time, as a float32 scalar. */
const sizeOperator: Operator<{ readonly dim: Dim }> = {
  name: 'Size',
  infer: () => [{ dtype: 'float32', shape: [] }],
  emit(node, { dim }, context) {
    const [vector, flat] = [context.shapeVector([dim]), context.temporary()]
    return [
      { type: 'Reshape', inputs: [vector, context.ints([], [0])], outputs: [flat] },
      { type: 'Cast', inputs: [flat], outputs: [at(node.outputs, 0).name], attributes: { to: 1 } },
    ]
  },
  gradient: { notDifferentiable: 'a size does not depend on values' },
}
export function sizeScalar(graph: Graph, dim: Dim): Tensor {
  if (typeof dim === 'number') {
    return addConstant(graph, { dtype: 'float32', dims: [], data: Float32Array.of(dim) })
  }
  return at(applyTo(graph, sizeOperator, [], { dim }), 0)
}

export const layoutOperators = {
  Reshape: reshapeOperator,
  Transpose: transposeOperator,
  Expand: expandOperator,
  Concat: concatOperator,
  Slice: sliceOperator,
  Split: splitOperator,
  Size: sizeOperator,
}

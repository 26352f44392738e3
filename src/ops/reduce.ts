import type { Tensor } from '../graph/graph.ts'
import { type Dim, type Shape, sizeOf } from '../graph/shape.ts'
import { cast, divide, equal, multiply, scale } from './elementwise.ts'
import { expand, reshape, sizeScalar } from './layout.ts'
import { applyOne, at, type Operator, requireAxis } from './operator.ts'

export interface ReduceAttributes {
  /** Axes to reduce, counted from the front. */
  readonly axes: readonly number[]
  /** Whether reduced axes stay, with length 1. */
  readonly keepAxes: boolean
}

function reducedShape(shape: Shape, { axes, keepAxes }: ReduceAttributes): Shape {
  return shape.flatMap((dim, axis): readonly Dim[] => (axes.includes(axis) ? (keepAxes ? [1] : []) : [dim]))
}

function reduction(name: string, gradient: Operator<ReduceAttributes>['gradient']): Operator<ReduceAttributes> {
  return {
    name,
    infer(inputs, attributes) {
      const x = at(inputs, 0)
      for (const axis of attributes.axes) requireAxis(name, inputs, axis)
      return [{ dtype: x.dtype, shape: reducedShape(x.shape, attributes) }]
    },
    emit: (node, { axes, keepAxes }, context) => [
      {
        type: name,
        inputs: [at(node.inputs, 0).name, context.ints(axes)],
        outputs: [at(node.outputs, 0).name],
        attributes: { keepdims: Number(keepAxes) },
      },
    ],
    gradient,
  }
}

/** The gradient of a reduction with its reduced axes put back as length 1. */
function withAxes(gradient: Tensor, x: Tensor, { axes }: ReduceAttributes): Tensor {
  return reshape(
    gradient,
    x.shape.map((dim, axis) => (axes.includes(axis) ? 1 : dim)),
  )
}

// y = Σ x: every summand receives g
const sumOperator = reduction('ReduceSum', ({ inputs, attributes, outputGradients }) => {
  const x = at(inputs, 0)
  return [expand(withAxes(at(outputGradients, 0), x, attributes), x.shape)]
})

// y = Σ x / n: every summand receives g / n
const meanOperator = reduction('ReduceMean', ({ inputs, attributes, outputGradients }) => {
  const x = at(inputs, 0)
  const g = withAxes(at(outputGradients, 0), x, attributes)
  const count = sizeOf(attributes.axes.map((axis) => at(x.shape, axis)))
  const shared = typeof count === 'number' ? scale(g, 1 / count) : divide(g, sizeScalar(x.graph, count))
  return [expand(shared, x.shape)]
})

// y = max x: the largest element receives g; equal largest ones share it
const maxOperator = reduction('ReduceMax', ({ inputs, outputs, attributes, outputGradients }) => {
  const x = at(inputs, 0)
  const largest = cast(equal(x, withAxes(at(outputs, 0), x, attributes)), 'float32')
  const g = withAxes(at(outputGradients, 0), x, attributes)
  return [multiply(largest, divide(g, reduceSum(largest, attributes.axes, true)))]
})

/** Sum over axes (default: all), counted from the front; negative axes count from the back. */
export function reduceSum(x: Tensor, axes?: readonly number[], keepAxes = false): Tensor {
  return reduce(sumOperator, x, axes, keepAxes)
}

export function reduceMean(x: Tensor, axes?: readonly number[], keepAxes = false): Tensor {
  return reduce(meanOperator, x, axes, keepAxes)
}

export function reduceMax(x: Tensor, axes?: readonly number[], keepAxes = false): Tensor {
  return reduce(maxOperator, x, axes, keepAxes)
}

function reduce(
  operator: Operator<ReduceAttributes>,
  x: Tensor,
  wanted: readonly number[] | undefined,
  keepAxes: boolean,
): Tensor {
  const axes = wanted?.map((axis) => (axis < 0 ? x.shape.length + axis : axis)) ?? x.shape.map((_, axis) => axis)
  // over no axis every reduction is the identity; ONNX would read an empty list as all axes
  return axes.length === 0 ? x : applyOne(operator, [x], { axes, keepAxes })
}

export const reduceOperators = { ReduceSum: sumOperator, ReduceMean: meanOperator, ReduceMax: maxOperator }

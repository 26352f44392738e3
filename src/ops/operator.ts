import { ClaraError } from '../errors.ts'
import type { DType } from '../graph/dtype.ts'
import { addNode, type Graph, type GraphNode, type Tensor } from '../graph/graph.ts'
import type { EmitContext, OnnxNode } from '../graph/onnx.ts'
import { type Dim, type Shape, showShape } from '../graph/shape.ts'

/** dtype and shape of one result, known before anything runs. */
export interface Result {
  readonly dtype: DType
  readonly shape: Shape
}

/** What a gradient rule sees: the node, the gradients that reached its outputs, and which operands want one. */
export interface GradientContext<Attributes> {
  readonly inputs: readonly Tensor[]
  readonly outputs: readonly Tensor[]
  readonly attributes: Attributes
  /** Gradient of the loss by each output; undefined where none flows. */
  readonly outputGradients: readonly (Tensor | undefined)[]
  /** Whether operand i needs a gradient: rules skip the others, whose cost would be wasted. */
  readonly needed: readonly boolean[]
}

/**
 * The gradient of the loss by each operand (undefined: no gradient flows there). A rule may return a gradient in the
 * broadcast shape: the reverse walk sums it back to the operand's shape.
 */
export type GradientRule<Attributes> = (context: GradientContext<Attributes>) => readonly (Tensor | undefined)[]

/** Says that no gradient passes through an operator, and why; required where there is no rule. */
export interface NotDifferentiable {
  readonly notDifferentiable: string
}

/** One operator: shape rule, ONNX emission and gradient side by side. A missing gradient does not compile. */
export interface Operator<Attributes> {
  readonly name: string
  /** Checks the operands and says what comes out; throws naming operator, operands and dimensions. */
  readonly infer: (inputs: readonly Tensor[], attributes: Attributes) => readonly Result[]
  /** ONNX nodes that compute it. Default: one standard node of the same name without attributes. */
  readonly emit?: (node: GraphNode, attributes: Attributes, context: EmitContext) => readonly OnnxNode[]
  readonly gradient: GradientRule<Attributes> | NotDifferentiable
}

/** Applies an operator, appending one node to the operands' graph. */
export function apply<Attributes extends object>(
  operator: Operator<Attributes>,
  inputs: readonly (Tensor | undefined)[],
  attributes: Attributes,
): readonly Tensor[] {
  const present = inputs.filter((tensor): tensor is Tensor => tensor !== undefined)
  const [first] = present
  if (!first) throw new ClaraError(`${operator.name} was applied to no operand.`)
  return applyTo(first.graph, operator, present, attributes)
}

/** The same for an operator that may have no operand. */
export function applyTo<Attributes extends object>(
  graph: Graph,
  operator: Operator<Attributes>,
  inputs: readonly Tensor[],
  attributes: Attributes,
): readonly Tensor[] {
  const results = operator.infer(inputs, attributes)
  const outputs = addNode(graph, operator.name, inputs, attributes as Readonly<Record<string, unknown>>, results)
  const node = outputs[0]?.producer
  if (!node)
    throw new ClaraError(`${operator.name} has no result.`, { hint: 'Its shape rule must return one or more.' })
  rules.set(node, operator as unknown as Operator<object>)
  return outputs
}

/** Which operator made a node: so an operator works wherever it is written, without being entered anywhere. */
const rules = new WeakMap<GraphNode, Operator<object>>()

/** The operator that a node applies. Its attributes are those the operator itself put on the node. */
export function operatorOf(node: GraphNode): Operator<object> {
  const operator = rules.get(node)
  if (!operator) {
    throw new ClaraError(`Node '${node.outputs[0]?.name}' of type '${node.operator}' was made by no operator.`, {
      hint: 'Make nodes with apply() of ops/operator.ts.',
    })
  }
  return operator
}

/** Applies an operator with a single result. */
export function applyOne<Attributes extends object>(
  operator: Operator<Attributes>,
  inputs: readonly (Tensor | undefined)[],
  attributes: Attributes,
): Tensor {
  return at(apply(operator, inputs, attributes), 0)
}

/** Element `index` of a list that must have it. */
export function at<Value>(list: readonly (Value | undefined)[], index: number): Value {
  const value = list[index]
  if (value === undefined) throw new RangeError(`No element ${index} in a list of ${list.length}.`)
  return value
}

export function dimAt(tensor: Tensor, axis: number): Dim {
  return at(tensor.shape, axis < 0 ? tensor.shape.length + axis : axis)
}

/** The error of operands that do not fit, in one form for all operators. */
export function mismatch(operator: string, inputs: readonly Tensor[], problem: string): ClaraError {
  const operands = inputs.map((tensor) => `${tensor.name}: ${tensor.dtype}${showShape(tensor.shape)}`).join(', ')
  return new ClaraError(`${operator}(${operands}): ${problem}.`)
}

/** Requires an axis that the first operand has, counted from the front. */
export function requireAxis(operator: string, inputs: readonly Tensor[], axis: number) {
  if (!Number.isInteger(axis) || axis < 0 || axis >= at(inputs, 0).shape.length) {
    throw mismatch(operator, inputs, `there is no axis ${axis}`)
  }
}

/** Requires one element type of some operands. */
export function requireDType(operator: string, inputs: readonly Tensor[], positions: readonly number[], dtype: DType) {
  for (const position of positions) {
    const tensor = at(inputs, position)
    if (tensor.dtype !== dtype) throw mismatch(operator, inputs, `operand ${position} must be ${dtype}`)
  }
}

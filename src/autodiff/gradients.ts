import { ClaraError } from '../errors.ts'
import type { Graph, GraphNode, Tensor } from '../graph/graph.ts'
import { broadcastShapes, type Shape, sameShape, showShape } from '../graph/shape.ts'
import { add, scalar } from '../ops/elementwise.ts'
import { reshape } from '../ops/layout.ts'
import { gemmPlus } from '../ops/matmul.ts'
import { at, operatorOf } from '../ops/operator.ts'
import { reduceSum } from '../ops/reduce.ts'

/**
 * Reverse-mode automatic differentiation: appends to the graph the nodes that compute the gradient of a scalar loss by
 * each tensor of `wrt`, and returns those gradients in order.
 *
 * @param seeds Further tensors through which gradient enters, with that gradient (the backward pass of one layer, whose
 *   loss lies in another graph). With seeds the loss may be undefined.
 * @throws ClaraError when the loss is no scalar, or when no differentiable path leads from it to a tensor of `wrt`.
 */
export function gradients(
  loss: Tensor | undefined,
  wrt: readonly Tensor[],
  seeds: ReadonlyMap<Tensor, Tensor> = new Map(),
): Tensor[] {
  const graph = (loss ?? wrt[0])?.graph
  if (!graph) throw new ClaraError('gradients() was asked for nothing.')
  const needed = tensorsLeadingFrom(graph, wrt)
  const flowing = new Map<Tensor, Tensor>()
  if (loss) {
    if (loss.shape.length > 0) {
      throw new ClaraError(`The loss '${loss.name}' has shape ${showShape(loss.shape)}.`, {
        expected: 'a scalar',
        hint: 'Reduce it with reduceSum or reduceMean first.',
      })
    }
    flowing.set(loss, scalar(loss, 1))
  }
  for (const [tensor, gradient] of seeds) {
    if (!sameShape(tensor.shape, gradient.shape)) {
      throw new ClaraError(`The seed for '${tensor.name}' has shape ${showShape(gradient.shape)}.`, {
        expected: `the tensor's own shape ${showShape(tensor.shape)}`,
      })
    }
    accumulate(flowing, tensor, gradient, false)
  }

  // the reverse of building order is a reverse topological order; nodes appended by the walk itself are not visited
  for (const node of [...graph.nodes].reverse()) backward(node, flowing, needed)

  return wrt.map((tensor) => {
    const gradient = flowing.get(tensor)
    if (!gradient) {
      throw new ClaraError(`No gradient reaches '${tensor.name}'.`, {
        hint: 'No differentiable operator leads from it to the loss.',
      })
    }
    return gradient
  })
}

function backward(node: GraphNode, flowing: Map<Tensor, Tensor>, needed: ReadonlySet<Tensor>): void {
  const outputGradients = node.outputs.map((output) => flowing.get(output))
  if (outputGradients.every((gradient) => gradient === undefined)) return
  if (!node.outputs.some((output) => needed.has(output))) return
  const { gradient } = operatorOf(node)
  if ('notDifferentiable' in gradient) return
  const inputs = node.inputs.filter((tensor): tensor is Tensor => tensor !== undefined)
  const { nodes } = at(node.outputs, 0).graph
  const before = nodes.length
  const contributions = gradient({
    inputs,
    outputs: node.outputs,
    attributes: node.attributes,
    outputGradients,
    needed: inputs.map((tensor) => needed.has(tensor)),
  })
  inputs.forEach((input, index) => {
    const contribution = contributions[index]
    if (!contribution || !needed.has(input)) return
    if (!canSumTo(contribution.shape, input.shape)) {
      throw new ClaraError(`The gradient rule of ${node.operator} returned shape ${showShape(contribution.shape)}.`, {
        expected: `for operand ${index}, '${input.name}', its shape ${showShape(input.shape)} or one broadcast from it`,
      })
    }
    const own = nodes.indexOf(contribution.producer as GraphNode, before) >= 0
    accumulate(flowing, input, sumToShape(contribution, input), own)
  })
}

/** @param own Whether nothing else uses the contribution: a product that is used again would be computed twice if folded. */
function accumulate(flowing: Map<Tensor, Tensor>, tensor: Tensor, contribution: Tensor, own: boolean): void {
  const total = flowing.get(tensor)
  const folded = total && own ? gemmPlus(total, contribution) : undefined
  flowing.set(tensor, folded ?? (total ? add(total, contribution) : contribution))
}

/** Whether an operand of one shape broadcasts to the other. */
function canSumTo(gradient: Shape, operand: Shape): boolean {
  const broadcast = broadcastShapes(gradient, operand)
  return broadcast !== undefined && sameShape(broadcast, gradient)
}

/** Undoes broadcasting: sums a gradient over the axes along which its operand was repeated. */
function sumToShape(gradient: Tensor, operand: Tensor): Tensor {
  if (sameShape(gradient.shape, operand.shape)) return gradient
  const extra = gradient.shape.length - operand.shape.length
  const axes = gradient.shape.flatMap((dim, axis) =>
    axis < extra || (operand.shape[axis - extra] === 1 && dim !== 1) ? [axis] : [],
  )
  return reshape(axes.length > 0 ? reduceSum(gradient, axes, true) : gradient, operand.shape)
}

/** All tensors that some tensor of `wrt` influences, themselves included. */
function tensorsLeadingFrom(graph: Graph, wrt: readonly Tensor[]): ReadonlySet<Tensor> {
  const reached = new Set(wrt)
  for (const node of graph.nodes) {
    if (node.inputs.some((input) => input && reached.has(input))) for (const output of node.outputs) reached.add(output)
  }
  return reached
}

import type { Graph } from '../graph/graph.ts'
import { type EncodedModel, encodeModel, reachableNodes } from '../graph/onnx.ts'
import { evaluateDim } from '../graph/shape.ts'
import { attentionOperators } from './attention.ts'
import { customOperators } from './custom.ts'
import { elementwiseOperators } from './elementwise.ts'
import { indexingOperators } from './indexing.ts'
import { layoutOperators } from './layout.ts'
import { matmulOperators, productFlops } from './matmul.ts'
import { normaliseOperators } from './normalise.ts'
import { operatorOf } from './operator.ts'
import { quantisedOperators } from './quantised.ts'
import { reduceOperators } from './reduce.ts'

/** The operators of this room by name. An operator defined elsewhere works the same; here every one is tested. */
export const operators = {
  ...elementwiseOperators,
  ...matmulOperators,
  ...reduceOperators,
  ...layoutOperators,
  ...indexingOperators,
  ...normaliseOperators,
  ...quantisedOperators,
  ...attentionOperators,
  ...customOperators,
}

/** Encodes a graph as ONNX with the emission of each operator. */
export function encodeGraph(graph: Graph): EncodedModel {
  return encodeModel(graph, (node, context) => {
    const operator = operatorOf(node)
    if (operator.emit) return operator.emit(node, node.attributes, context)
    return [
      {
        type: operator.name,
        inputs: node.inputs.map((tensor) => tensor?.name ?? ''),
        outputs: node.outputs.map(({ name }) => name),
      },
    ]
  })
}

/** Floating-point operations of all matrix products that the outputs need, for given values of the symbolic dimensions. */
export function countFlops(graph: Graph, dims: Readonly<Record<string, number>>): number {
  return reachableNodes(graph).reduce((total, node) => total + evaluateDim(productFlops(node), dims), 0)
}

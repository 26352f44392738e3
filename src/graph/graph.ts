import { ClaraError } from '../errors.ts'
import { type DType, elementCount, type HostTensor } from './dtype.ts'
import { canonicalDim, type Shape, showShape } from './shape.ts'

/**
 * A graph is a list of nodes over symbolic tensors: nothing is computed while it is built.
 * Every node is one application of an operator of the `ops` room; the graph itself knows no operator by name.
 */
export interface Graph {
  readonly name: string
  readonly nodes: GraphNode[]
  readonly inputs: Tensor[]
  readonly constants: Map<Tensor, HostTensor>
  /** Frozen weights, whose bytes stay outside the graph (see `encodeModel`). */
  readonly weights: Tensor[]
  readonly outputs: Map<string, Tensor>
  /** Where a symbolic dimension can be read when the graph runs: the input and the axis that introduced it. */
  readonly symbols: Map<string, { readonly input: Tensor; readonly axis: number }>
  readonly names: Set<string>
  /** Interned constants by content, so that equal constants exist once. */
  readonly interned: Map<string, Tensor>
}

/** What a graph computes with: a name, an element type and a shape. */
export interface Tensor {
  readonly graph: Graph
  readonly name: string
  readonly dtype: DType
  readonly shape: Shape
  /** The node that computes it; undefined for inputs, weights and constants. */
  readonly producer: GraphNode | undefined
}

export type Attribute = number | string | readonly number[] | { readonly float: number }

export interface GraphNode {
  readonly operator: string
  readonly inputs: readonly (Tensor | undefined)[]
  readonly outputs: readonly Tensor[]
  readonly attributes: Readonly<Record<string, unknown>>
}

/** An empty graph. */
export function createGraph(name: string): Graph {
  return {
    name,
    nodes: [],
    inputs: [],
    constants: new Map(),
    weights: [],
    outputs: new Map(),
    symbols: new Map(),
    names: new Set(),
    interned: new Map(),
  }
}

function claimName(graph: Graph, wanted: string): string {
  if (graph.names.has(wanted)) {
    throw new ClaraError(`Graph '${graph.name}' already has a tensor named '${wanted}'.`, {
      hint: 'Names of inputs and weights are unique within a graph.',
    })
  }
  graph.names.add(wanted)
  return wanted
}

/** A value fed at every run. Its symbolic dimensions become known to the graph. */
export function addInput(graph: Graph, name: string, dtype: DType, dims: Shape): Tensor {
  const shape = dims.map(canonicalDim)
  const tensor: Tensor = { graph, name: claimName(graph, name), dtype, shape, producer: undefined }
  graph.inputs.push(tensor)
  shape.forEach((dim, axis) => {
    if (typeof dim === 'string' && !graph.symbols.has(dim)) graph.symbols.set(dim, { input: tensor, axis })
  })
  return tensor
}

/** A frozen weight: its bytes are attached when a session opens, not stored in the graph. */
export function addWeight(graph: Graph, name: string, dtype: DType, shape: readonly number[]): Tensor {
  const tensor: Tensor = { graph, name: claimName(graph, name), dtype, shape, producer: undefined }
  graph.weights.push(tensor)
  return tensor
}

/** A value known while building. Equal small constants are shared. */
export function addConstant(graph: Graph, value: HostTensor): Tensor {
  if (value.data.length !== elementCount(value.dims)) {
    throw new ClaraError(`A constant of graph '${graph.name}' has ${value.data.length} values.`, {
      expected: `${elementCount(value.dims)} for shape ${showShape(value.dims)}`,
    })
  }
  const key = value.data.length <= 16 ? `${value.dtype}:${value.dims.join(',')}:${value.data.join(',')}` : undefined
  const known = key === undefined ? undefined : graph.interned.get(key)
  if (known) return known
  const name = claimName(graph, `constant_${graph.constants.size}`)
  const tensor: Tensor = { graph, name, dtype: value.dtype, shape: value.dims, producer: undefined }
  graph.constants.set(tensor, value)
  if (key !== undefined) graph.interned.set(key, tensor)
  return tensor
}

/** Appends a node; `results` lists dtype and shape of each output. */
export function addNode(
  graph: Graph,
  operator: string,
  inputs: readonly (Tensor | undefined)[],
  attributes: Readonly<Record<string, unknown>>,
  results: readonly { readonly dtype: DType; readonly shape: Shape }[],
): readonly Tensor[] {
  for (const tensor of inputs) {
    if (tensor && tensor.graph !== graph) {
      throw new ClaraError(`${operator}: operand '${tensor.name}' belongs to graph '${tensor.graph.name}'.`, {
        expected: `a tensor of graph '${graph.name}'`,
      })
    }
  }
  const index = graph.nodes.length
  const outputs: Tensor[] = []
  const node: GraphNode = { operator, inputs, attributes, outputs }
  results.forEach(({ dtype, shape }, position) => {
    const name = claimName(graph, position === 0 ? `${operator}_${index}` : `${operator}_${index}_${position}`)
    outputs.push({ graph, name, dtype, shape, producer: node })
  })
  graph.nodes.push(node)
  return outputs
}

/** Marks a tensor as a result of the graph under a public name. */
export function addOutput(graph: Graph, name: string, tensor: Tensor): void {
  if (graph.outputs.has(name)) throw new ClaraError(`Graph '${graph.name}' already has an output named '${name}'.`)
  graph.outputs.set(name, tensor)
}

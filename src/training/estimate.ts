import { bytesPerElement } from '../graph/dtype.ts'
import type { Graph, GraphNode, Tensor } from '../graph/graph.ts'
import { reachableNodes } from '../graph/onnx.ts'
import { addDims, type Dim, evaluateDim } from '../graph/shape.ts'
import { productFlops } from '../ops/matmul.ts'

/** Values of a graph's symbolic dimensions. */
export type Dims = Readonly<Record<string, number>>

/** The values that a graph's symbolic dimensions take for some inputs. */
export function dimsOf(graph: Graph, feeds: Readonly<Record<string, { readonly dims: readonly number[] }>>): Dims {
  const dims: Record<string, number> = {}
  for (const [symbol, { input, axis }] of graph.symbols) {
    const value = feeds[input.name]?.dims[axis]
    if (value !== undefined) dims[symbol] = value
  }
  return dims
}

/** Operators whose result is their input, seen otherwise: they take no memory. */
const views = new Set(['Reshape', 'Squeeze', 'Unsqueeze', 'Flatten', 'Identity'])

/**
 * Bytes of the intermediate results that exist at the same time, at most, while a graph runs. The nodes are taken in the
 * graph's order, but those that lead to outputs alone come last, as ONNX Runtime takes them: gradients of parameters
 * therefore keep what they are computed from until then.
 * @returns What tells them for values of the symbolic dimensions.
 */
export function peakBytesOf(graph: Graph): (dims: Dims) => number {
  const nodes = runOrder(graph)
  const storage = new Map<Tensor, Tensor>()
  const rootOf = (tensor: Tensor): Tensor => storage.get(tensor) ?? tensor
  const lastUse = new Map<Tensor, number>()
  nodes.forEach((node, index) => {
    const [source] = node.inputs
    if (views.has(node.operator) && source) {
      for (const output of node.outputs) storage.set(output, rootOf(source))
    }
    for (const input of node.inputs) if (input) lastUse.set(rootOf(input), index)
  })
  for (const output of graph.outputs.values()) lastUse.set(rootOf(output), nodes.length)

  return (dims) => {
    const bytesOf = sizer(dims)
    const freedAt = new Map<number, number>()
    let live = 0
    let peak = 0
    nodes.forEach((node, index) => {
      for (const output of node.outputs) {
        if (storage.has(output)) continue
        const bytes = bytesOf(output)
        const last = lastUse.get(output) ?? index
        live += bytes
        freedAt.set(last, (freedAt.get(last) ?? 0) + bytes)
      }
      peak = Math.max(peak, live)
      live -= freedAt.get(index) ?? 0
    })
    return peak
  }
}

/** Floating-point operations of all matrix products that the outputs need, for values of the symbolic dimensions. */
export function flopsOf(graph: Graph): (dims: Dims) => number {
  const flops = reachableNodes(graph).reduce<Dim>((sum, node) => addDims(sum, productFlops(node)), 0)
  return (dims) => evaluateDim(flops, dims)
}

/** The nodes that the outputs need; those from which nothing but outputs follows come last. */
function runOrder(graph: Graph): GraphNode[] {
  const nodes = reachableNodes(graph)
  const consumers = new Map<GraphNode, GraphNode[]>()
  for (const node of nodes) {
    for (const input of node.inputs) {
      if (input?.producer) consumers.set(input.producer, [...(consumers.get(input.producer) ?? []), node])
    }
  }
  const late = new Set<GraphNode>()
  for (const node of [...nodes].reverse()) {
    if ((consumers.get(node) ?? []).every((consumer) => late.has(consumer))) late.add(node)
  }
  return [...nodes.filter((node) => !late.has(node)), ...nodes.filter((node) => late.has(node))]
}

/** Sizes of tensors; a dimension is worked out once. */
function sizer(dims: Dims): (tensor: Tensor) => number {
  const values = new Map<Dim, number>()
  const sizeOf = (dim: Dim) => {
    const known = values.get(dim) ?? evaluateDim(dim, dims)
    values.set(dim, known)
    return known
  }
  return ({ shape, dtype }) => shape.reduce<number>((product, dim) => product * sizeOf(dim), bytesPerElement[dtype])
}

/** Bytes of a graph's frozen weights, once for every node that reads one: each keeps a copy in a layout of its own. */
export function weightUseBytes(graph: Graph): number {
  const weights = new Set(graph.weights)
  const bytesOf = sizer({})
  return reachableNodes(graph)
    .flatMap(({ inputs }) => inputs)
    .reduce((sum, input) => sum + (input && weights.has(input) ? bytesOf(input) : 0), 0)
}

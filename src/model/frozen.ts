import type { HostTensor } from '../graph/dtype.ts'
import { addInput, addWeight, createGraph, type Graph, type Tensor } from '../graph/graph.ts'
import { customGradient } from '../ops/custom.ts'
import { transpose } from '../ops/layout.ts'
import { linearInt8, quantiseRows } from '../ops/quantised.ts'
import { encodeGraph } from '../ops/table.ts'
import type { Runtime } from '../runtime/runtime.ts'
import { blockLength, rotation, turnedInBlocks } from './rotation.ts'
import { addRounded } from './rounded.ts'

// Frozen linear layers in 8 bits for training: both products with the weight, y = x Wᵀ of the forward pass and dx = dy W of
// the backward pass, are integer products. Each has a copy of the weight of its own, since a scale belongs to one column of
// a product. What enters is rounded row by row: hidden states in a basis where no channel stands out (see rotation.ts),
// turned in short blocks, as that needs nothing of the layers around; gradients as they are, since turning them gains little
// (docs/LOG.md). Parameters that learn stay in float32, and see the rows as they are.

const rotationName = (block: number) => `rotation.${block}`
const directions = ['forward', 'backward'] as const
type Direction = (typeof directions)[number]
const valuesName = (weight: string, direction: Direction) => `${weight}.${direction}`
const scalesName = (weight: string, direction: Direction) => `${weight}.${direction}.scales`

/**
 * Rounds linear layers to 8 bits for {@link frozenLinear}: values and scales of both products, and the rotations.
 * @param weights [out, in] by checkpoint name, float32.
 */
export async function frozenWeights(
  runtime: Runtime,
  weights: ReadonlyMap<string, HostTensor>,
): Promise<Map<string, HostTensor>> {
  const parts = new Map<string, HostTensor>()
  for (const [name, weight] of weights) {
    const block = blockLength(weight.dims[1] ?? 0)
    parts.set(rotationName(block), rotation(block))
    for (const [part, value] of await roundWeight(runtime, name, weight)) parts.set(part, value)
  }
  return parts
}

/** One weight at a time: meanwhile it exists several times. */
async function roundWeight(runtime: Runtime, name: string, weight: HostTensor): Promise<[string, HostTensor][]> {
  const [out = 0, input = 0] = weight.dims
  const block = blockLength(input)
  const graph = createGraph('round')
  const given = addInput(graph, 'weight', 'float32', [out, input])
  const turn = addInput(graph, 'turn', 'float32', [block, block])
  // rows are the columns of the product: what a scale belongs to
  const products = { forward: turnedInBlocks(given, turn), backward: transpose(given, [1, 0]) }
  for (const direction of directions) {
    addRounded(products[direction], valuesName(name, direction), scalesName(name, direction))
  }
  await using session = await runtime.open(encodeGraph(graph))
  return Object.entries(await session.run({ weight, turn: rotation(block) }))
}

/** Frozen linear layers inside one graph, on the weights of {@link frozenWeights}. */
export function frozenLinear(graph: Graph): (rows: Tensor, name: string, dims: readonly number[]) => Tensor {
  const declared = new Map<string, Tensor>()
  const weight = (name: string, dtype: 'float32' | 'int8', dims: readonly number[]) => {
    const known = declared.get(name) ?? addWeight(graph, name, dtype, dims)
    declared.set(name, known)
    return known
  }
  const product = (rows: Tensor, name: string, direction: Direction, [inner, columns]: readonly [number, number]) =>
    linearInt8(
      quantiseRows(rows),
      weight(valuesName(name, direction), 'int8', [inner, columns]),
      weight(scalesName(name, direction), 'float32', [columns]),
    )
  return (rows, name, [out = 0, input = 0]) => {
    const block = blockLength(input)
    const turn = weight(rotationName(block), 'float32', [block, block])
    const result = product(turnedInBlocks(rows, turn), name, 'forward', [input, out])
    return customGradient(result, rows, (gradient) => product(gradient, name, 'backward', [out, input]))
  }
}

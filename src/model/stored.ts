import { quantiseBlocks } from '../checkpoint/block-quantise.ts'
import { narrowToFloat16 } from '../checkpoint/half.ts'
import type { PlannedTensor } from '../checkpoint/safetensors.ts'
import { ClaraError } from '../errors.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { addWeight, type Graph, type Tensor } from '../graph/graph.ts'
import { cast } from '../ops/elementwise.ts'
import { linear } from '../ops/matmul.ts'
import { type BlockBits, bytesPerBlock, matmulBlocks, matmulHalf, QUANTISATION_BLOCK } from '../ops/quantised.ts'
import type { WeightKind } from './weight-kinds.ts'

// How the weights of linear layers are kept in a file or in memory, as they are multiplied with: a weight of any kind is one
// tensor or two, and knows how to declare itself in a graph. Updates of adapters stay beside it.

const bitsOf = { int8: 8, int4: 4 } as const satisfies Partial<Record<WeightKind, BlockBits>>

/** The tensors that a weight [out, in] is kept as, under names derived from its own. */
export function storedParts(kind: WeightKind, name: string, dims: readonly number[]): readonly PlannedTensor[] {
  const [out = 0, input = 0] = dims
  if (kind === 'fp32') return [{ name, dtype: 'float32', dims }]
  if (kind === 'fp16') return [{ name, dtype: 'float16', dims }]
  if (dims.length !== 2 || input % QUANTISATION_BLOCK !== 0) {
    throw new ClaraError(`The weight '${name}' cannot be held as ${kind}.`, {
      expected: `a matrix whose inputs are a multiple of ${QUANTISATION_BLOCK}`,
      received: `[${dims.join(', ')}]`,
      hint: "Load the model with weights 'fp16' or 'fp32'.",
    })
  }
  const blocks = input / QUANTISATION_BLOCK
  return [
    { name: `${name}.${kind}`, dtype: 'uint8', dims: [out, blocks, bytesPerBlock(bitsOf[kind])] },
    { name: `${name}.scales`, dtype: 'float16', dims: [out, blocks] },
  ]
}

/** The values of {@link storedParts}, in their order, of a float32 weight. */
export function storeWeight(kind: WeightKind, name: string, weight: HostTensor): HostTensor[] {
  const values = weight.data
  if (!(values instanceof Float32Array)) throw new RangeError(`The weight '${name}' is not float32.`)
  const parts = storedParts(kind, name, weight.dims)
  const quantised = kind === 'int8' || kind === 'int4' ? quantiseBlocks(values, bitsOf[kind], name) : undefined
  const data = quantised ? [quantised.values, quantised.scales] : [kind === 'fp16' ? narrowToFloat16(values) : values]
  return parts.map(({ dtype, dims }, index) => ({ dtype, dims, data: data[index] ?? new Uint8Array() }))
}

/** The product of rows with a weight that is kept as {@link storedParts}, for use inside one graph. */
export function storedLinear(
  graph: Graph,
  kind: WeightKind,
): (rows: Tensor, name: string, dims: readonly number[]) => Tensor {
  return (rows, name, dims) => {
    const [weight, scales] = storedParts(kind, name, dims).map((part) =>
      addWeight(graph, part.name, part.dtype, part.dims),
    ) as [Tensor, ...Tensor[]]
    if (kind === 'fp32') return linear(rows, weight)
    if (kind === 'fp16' || !scales) return matmulHalf(rows, weight)
    // ONNX Runtime wants scales of the rows' type; it widens them once, while it opens the session
    return matmulBlocks(rows, weight, cast(scales, 'float32'), bitsOf[kind])
  }
}

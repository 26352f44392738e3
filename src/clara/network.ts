import { int64 } from '../graph/dtype.ts'
import { addConstant, addInput, addWeight, type Graph, type Tensor } from '../graph/graph.ts'
import { addDims, type Dim, multiplyDims } from '../graph/shape.ts'
import { adapterShapes, addLowRank, factorName, type LoraSize, type Role } from '../lora/adapters.ts'
import { type DecoderConfig, layerParameters, linearModules, linearWeightName, slidingWindow } from '../model/config.ts'
import type { Decoder } from '../model/decoder.ts'
import { declareRotary } from '../model/rotary.ts'
import { multiply } from '../ops/elementwise.ts'
import { reshape, slice } from '../ops/layout.ts'
import { linear } from '../ops/matmul.ts'
import { dimAt } from '../ops/operator.ts'

/** The frozen language model inside one graph: each weight is declared when it is first used, and once. */
export interface Base {
  readonly graph: Graph
  readonly config: DecoderConfig
  /** Rows of the embedding, special tokens included. */
  readonly vocabulary: number
  readonly weight: (name: string, dims: readonly number[]) => Tensor
  /** The product of rows with a linear layer's weight [out, in]. */
  readonly linear: (rows: Tensor, name: string, dims: readonly number[]) => Tensor
  /** What a decoder of any role needs to know of places: rotary tables and sliding windows. */
  readonly places: Pick<Decoder, 'rotary' | 'window'>
}

/**
 * @param vocabulary Rows of the resized embedding.
 * @param positions Length of the rotary tables: the longest sequence the graph will see.
 * @param placement Whether the frozen weights belong to the session, or are fed at every run, so that one session serves
 *   all layers. Default: `session`.
 */
export function declareBase(
  graph: Graph,
  config: DecoderConfig,
  vocabulary: number,
  positions: number,
  placement: 'session' | 'fed' = 'session',
): Base {
  const declared = new Map<string, Tensor>()
  const weight = (name: string, dims: readonly number[]) => {
    const known = declared.get(name)
    if (known) return known
    const tensor =
      placement === 'fed' ? addInput(graph, name, 'float32', dims) : addWeight(graph, name, 'float32', dims)
    declared.set(name, tensor)
    return tensor
  }
  return {
    graph,
    config,
    vocabulary,
    weight,
    linear: (rows, name, dims) => linear(rows, weight(name, dims)),
    places: {
      rotary: declareRotary(graph, config, positions),
      window(layer) {
        const window = slidingWindow(config, layer)
        return window !== undefined && window < positions ? addConstant(graph, int64([window], [])) : undefined
      },
    },
  }
}

/** Dropout on what enters the low-rank updates: a vector of factors (0 or 1 / (1 - rate)), longer than any use of it. */
export interface DropoutNoise {
  readonly factors: Tensor
}

/** Each use of the noise begins this many elements after the one before, so that no two layers see the same mask. */
const NOISE_STEP = 7919
/** Uses in one layer: what enters attention, its output projection, the feed-forward and its down projection. */
const USES_PER_LAYER = 4

/** Length of the noise that `layers` layers need whose linear layers read at most `largest` elements. */
export const noiseLength = (largest: number, layers: number): number => largest + layers * USES_PER_LAYER * NOISE_STEP

/** The part of a decoder's noise that one layer uses, where every layer carries the adapter. */
export const layerNoise = (factors: Float32Array, layer: number, largest: number): Float32Array => {
  const start = layer * USES_PER_LAYER * NOISE_STEP
  return factors.subarray(start, start + noiseLength(largest, 1))
}

export interface AdapterOptions {
  readonly size: LoraSize
  /** Layers that carry the adapter, from the first. Default: all. */
  readonly layers?: number
  readonly dropout?: DropoutNoise | undefined
  /** Whether the parameters are fixed when a session opens, instead of inputs of every run. Default: false. */
  readonly frozen?: boolean
  /** The parameters, where the graph has them already. Default: they are declared. */
  readonly given?: ReadonlyMap<string, Tensor>
}

/** A role's decoder over the shared base, with the adapter's parameters as inputs of the graph. */
export function declareRole(
  base: Base,
  role: Role | undefined,
  options?: AdapterOptions,
): { readonly decoder: Decoder; readonly parameters: ReadonlyMap<string, Tensor> } {
  const { graph, config } = base
  const parameters = new Map<string, Tensor>()
  if (role && options) {
    for (const [name, dims] of adapterShapes(config, options.size, role, options.layers)) {
      const declare = options.frozen ? addWeight : addInput
      parameters.set(name, options.given?.get(name) ?? declare(graph, name, 'float32', dims))
    }
  }
  const [shapes, inLayer] = [linearModules(config), layerParameters(config)]
  const scale = options ? options.size.alpha / options.size.rank : 1
  const dropped = dropoutOf(options?.dropout)
  const decoder: Decoder = {
    config,
    ...base.places,
    norm: (name) => base.weight(name, inLayer.get(name.replace(/^model\.layers\.\d+\./, '')) ?? [config.hidden_size]),
    bias(layer, module) {
      const dims = inLayer.get(`${module}.bias`)
      return dims && base.weight(`model.layers.${layer}.${module}.bias`, dims)
    },
    project(rows, layer, module) {
      const dims = shapes.get(module)
      if (!dims) throw new RangeError(`No linear layer is named '${module}'.`)
      const product = base.linear(rows, linearWeightName(layer, module), dims)
      const a = role && parameters.get(factorName(layer, module, 'A', role))
      const b = role && parameters.get(factorName(layer, module, 'B', role))
      return a && b ? addLowRank(product, dropped(rows), { a, b }, scale) : product
    },
  }
  return { decoder, parameters }
}

/** Rows that enter several layers (queries, keys, values) share one mask. */
function dropoutOf(noise: DropoutNoise | undefined): (rows: Tensor) => Tensor {
  if (!noise) return (rows) => rows
  const known = new Map<Tensor, Tensor>()
  let start: Dim = 0
  return (rows) => {
    const masked = known.get(rows)
    if (masked) return masked
    const count = multiplyDims(dimAt(rows, 0), dimAt(rows, 1))
    const mask = reshape(slice(noise.factors, 0, start, addDims(start, count)), rows.shape)
    start = addDims(start, NOISE_STEP)
    const result = multiply(rows, mask)
    known.set(rows, result)
    return result
  }
}

export const EMBEDDING = 'model.embed_tokens.weight'
export const HEAD = 'lm_head.weight'

export const embeddingTable = (base: Base): Tensor => base.weight(EMBEDDING, [base.vocabulary, base.config.hidden_size])

/** The output head's weight: the embedding itself where they are tied. */
export const headTable = (base: Base): Tensor =>
  base.config.tie_word_embeddings ? embeddingTable(base) : base.weight(HEAD, [base.vocabulary, base.config.hidden_size])

import { addInput, type Graph, type Tensor } from '../graph/graph.ts'
import { multiplyDims } from '../graph/shape.ts'
import { CACHED_HEAD_MULTIPLE, cachedAttention } from '../ops/attention.ts'
import { scalar } from '../ops/elementwise.ts'
import { concat, expand, reshape, slice, transpose } from '../ops/layout.ts'
import type { Part, Resident, Runtime, Store } from '../runtime/runtime.ts'
import { type DecoderConfig, slidingWindow } from './config.ts'
import { type Decoder, decoderLayer, type Positions, rotated } from './decoder.ts'

/** Layers [from, to) of a decoder. */
export type LayerRange = readonly [from: number, to: number]

/** The window of the sliding layers, where it is narrower than the longest sequence. */
export function narrowWindow({ sliding_window: window }: DecoderConfig, maxPositions: number): number | undefined {
  return window !== undefined && window < maxPositions ? window : undefined
}

/** Width of a head in the cache. */
const cachedHeadWidth = ({ head_dim }: DecoderConfig): number =>
  Math.ceil(head_dim / CACHED_HEAD_MULTIPLE) * CACHED_HEAD_MULTIPLE

/** What layers with a cache are fed beside hidden states. */
export interface CachedInputs extends Positions {
  readonly slidingBias: Tensor
  readonly lastPositions: Tensor
  readonly total: Tensor
}

/** Declares `positions`, `bias`, `slidingBias` where a window is narrow, `lastPositions` and `total`. */
export function declareCachedInputs(graph: Graph, config: DecoderConfig, maxPositions: number): CachedInputs {
  const [batch, length] = ['batch', 'length']
  const positions = addInput(graph, 'positions', 'int64', [batch, length])
  const declareBias = (name: string) => addInput(graph, name, 'float32', [batch, 1, length, 'total'])
  const attentionBias = declareBias('bias')
  return {
    batch,
    length,
    positions,
    attentionBias,
    slidingBias: narrowWindow(config, maxPositions) === undefined ? attentionBias : declareBias('slidingBias'),
    lastPositions: addInput(graph, 'lastPositions', 'int32', [batch]),
    total: addInput(graph, 'total', 'int32', [1]),
  }
}

/**
 * Runs layers on rows of new positions, whose inputs `keys.N` and `values.N` hold what came before.
 * @returns The rows behind the last layer, and the new keys and values of all layers below each other.
 */
export function cachedLayers(
  decoder: Decoder,
  rows: Tensor,
  at: CachedInputs,
  [from, to]: LayerRange,
): { readonly rows: Tensor; readonly keyValues: Tensor } {
  const { config } = decoder
  const { graph } = rows
  const { batch, length, lastPositions, total } = at
  const { num_attention_heads: heads, num_key_value_heads: groups, head_dim: width } = config
  const cacheWidth = cachedHeadWidth(config)
  /** Heads filled up with zeros, which change no product of queries and keys. */
  const padded = (x: Tensor, count: number) => {
    if (cacheWidth === width) return x
    const zeros = expand(scalar(x, 0), [batch, length, count, cacheWidth - width])
    const all = concat([reshape(x, [batch, length, count, width]), zeros], 3)
    return reshape(all, [batch, length, count * cacheWidth])
  }
  const unpadded = (x: Tensor) =>
    cacheWidth === width ? x : slice(reshape(x, [batch, length, heads, cacheWidth]), 3, 0, width)
  const byHead = (x: Tensor) => transpose(reshape(x, [batch, length, groups, cacheWidth]), [0, 2, 1, 3])
  const news: Tensor[] = []
  let state = rows
  for (let layer = from; layer < to; layer++) {
    const past = {
      keys: addInput(graph, `keys.${layer}`, 'float32', [batch, groups, 'capacity', cacheWidth]),
      values: addInput(graph, `values.${layer}`, 'float32', [batch, groups, 'capacity', cacheWidth]),
    }
    state = decoderLayer(decoder, layer, state, (queryRows, keyRows, valueRows) => {
      const keys = padded(rotated(decoder, keyRows, groups, at), groups)
      const values = padded(reshape(valueRows, [batch, length, groups * width]), groups)
      news.push(byHead(keys), byHead(values))
      const queries = padded(rotated(decoder, queryRows, heads, at), heads)
      const context = cachedAttention(queries, keys, values, {
        heads,
        groups,
        past,
        lastPositions,
        total,
        scale: 1 / Math.sqrt(width),
        bias: slidingWindow(config, layer) === undefined ? at.attentionBias : at.slidingBias,
      })
      return reshape(unpadded(context), [multiplyDims(batch, length), heads * width])
    })
  }
  // one output instead of two a layer: handing over each costs more than the joining
  return { rows: state, keyValues: concat(news, 0) }
}

/** Keys and values of some layers, which stay in the runtime's thread. */
export interface KeyValueCache {
  /** The inputs `keys.N` and `values.N` when `filled` positions are there. */
  feeds(filled: number): Readonly<Record<string, Part>>
  /** Where new keys and values go. */
  store(filled: number): Store
  resize(capacity: number): Promise<void>
  release(): Promise<void>
}

export interface KeyValueCacheOptions {
  readonly runtime: Runtime
  readonly config: DecoderConfig
  readonly layers: LayerRange
  readonly batch: number
  /** Positions there is room for. */
  readonly capacity: number
}

export async function openKeyValueCache(options: KeyValueCacheOptions): Promise<KeyValueCache> {
  const { runtime, config, batch } = options
  const [from, to] = options.layers
  const names = Array.from({ length: to - from }, (_, index) => [
    `keys.${from + index}`,
    `values.${from + index}`,
  ]).flat()
  const { num_key_value_heads: groups } = config
  // all layers' keys and values below each other
  const allocate = (positions: number) =>
    runtime.allocate('float32', [names.length * batch, groups, positions, cachedHeadWidth(config)])
  const cache = await allocate(options.capacity)
  const nothing = await allocate(0)
  /** Each layer's part. */
  const partsOf = (resident: Resident): Record<string, Part> =>
    Object.fromEntries(
      names.map((name, index) => [name, { ...resident, from: index * batch, to: (index + 1) * batch }]),
    )
  const [pastParts, noParts] = [partsOf(cache), partsOf(nothing)]
  return {
    // a prompt has no past: the cache is there for what comes after
    feeds: (filled) => (filled === 0 ? noParts : pastParts),
    store: (filled) => ({ ...cache, axis: 2, start: filled }),
    resize: (capacity) => runtime.resize(cache, 2, capacity),
    async release() {
      await runtime.release(cache)
      await runtime.release(nothing)
    },
  }
}

import { float32, type HostTensor, int64 } from '../graph/dtype.ts'
import { addInput, addOutput, createGraph, type Graph, type Tensor } from '../graph/graph.ts'
import { where } from '../ops/elementwise.ts'
import { gather } from '../ops/indexing.ts'
import { reshape } from '../ops/layout.ts'
import { encodeGraph } from '../ops/table.ts'
import type { Runtime } from '../runtime/runtime.ts'
import {
  cachedLayers,
  declareCachedInputs,
  type KeyValueCache,
  type LayerRange,
  narrowWindow,
  openKeyValueCache,
} from './cached-layers.ts'
import type { DecoderConfig } from './config.ts'
import { type Decoder, finalNorm } from './decoder.ts'
import type { Continuation, GenerationPrompt, LanguageModel } from './generate.ts'

/** Positions by which a full key-value cache grows. */
const CACHE_STEP = 64
const HIDDEN = -1e9

/** The parts of a decoder that generation needs, declared in a graph. */
export interface CachedParts {
  readonly decoder: Decoder
  readonly embed: (ids: Tensor) => Tensor
  readonly head: (rows: Tensor) => Tensor
}

/** What every decoder with a key-value cache is described by. */
export interface CachedDecoderOptions {
  readonly runtime: Runtime
  readonly config: DecoderConfig
  readonly maxPositions: number
  readonly padId: number
}

export interface CachedModelOptions extends CachedDecoderOptions {
  readonly parts: (graph: Graph) => CachedParts
  readonly weights: ReadonlyMap<string, HostTensor>
}

/**
 * A decoder with a key-value cache. One graph serves the prompt and every later token: it reads `length` new positions and
 * the cache, and gives logits and the new keys and values, which stay in the runtime's thread.
 */
export async function openCachedModel(options: CachedModelOptions): Promise<LanguageModel> {
  const session = await options.runtime.open(cachedGraph(options), options.weights)
  return cachedLanguageModel({
    ...options,
    ranges: [[0, options.config.num_hidden_layers]],
    async step(feeds, [cache], filled) {
      if (!cache) throw new RangeError('There is no cache.')
      const stored = { fetch: ['logits'], store: { keyValues: cache.store(filled) } }
      const { logits } = await session.run({ ...feeds, ...cache.feeds(filled) }, stored)
      return logits?.data as Float32Array
    },
    close: () => session.close(),
  })
}

/** The inputs of one step. */
export type StepFeeds = Readonly<
  Record<
    'ids' | 'positions' | 'bias' | 'lastPositions' | 'total' | 'memory' | 'isMemory' | 'memoryIndex' | 'lastRows',
    HostTensor
  >
> & { readonly slidingBias?: HostTensor }

/** A decoder that computes one step at a time on caches which somebody else keeps. */
export interface SteppedDecoder extends CachedDecoderOptions {
  /** The layers that share a cache, in their order. */
  readonly ranges: readonly LayerRange[]
  /**
   * Reads new positions behind `filled` earlier ones and stores their keys and values.
   * @returns Logits [batch, vocabulary] of the positions `lastRows`.
   */
  step(feeds: StepFeeds, caches: readonly KeyValueCache[], filled: number): Promise<Float32Array>
  close(): Promise<void>
}

/** The language model that a stepped decoder is, its caches included. */
export function cachedLanguageModel(decoder: SteppedDecoder): LanguageModel {
  const model: LanguageModel = {
    maxPositions: decoder.maxPositions,
    start: (prompts, memory) => startContinuation(decoder, prompts, memory),
    close: () => decoder.close(),
    [Symbol.asyncDispose]: () => model.close(),
  }
  return model
}

function cachedGraph({ config, parts, maxPositions }: CachedModelOptions) {
  const graph = createGraph('generation')
  const { decoder, embed, head } = parts(graph)
  const { hidden_size: hidden, num_hidden_layers: layers } = config
  const [batch, length] = ['batch', 'length']
  const ids = addInput(graph, 'ids', 'int64', [batch, length])
  const at = declareCachedInputs(graph, config, maxPositions)
  const memory = addInput(graph, 'memory', 'float32', ['memories', hidden])
  const isMemory = addInput(graph, 'isMemory', 'bool', [batch, length, 1])
  const memoryIndex = addInput(graph, 'memoryIndex', 'int64', [batch, length])
  const lastRows = addInput(graph, 'lastRows', 'int64', [batch])
  const embedded = reshape(where(isMemory, gather(memory, memoryIndex), embed(ids)), [-1, hidden])
  const { rows, keyValues } = cachedLayers(decoder, embedded, at, [0, layers])
  addOutput(graph, 'keyValues', keyValues)
  addOutput(graph, 'logits', head(finalNorm(decoder, gather(rows, lastRows))))
  return encodeGraph(graph)
}

async function startContinuation(
  decoder: SteppedDecoder,
  prompts: readonly GenerationPrompt[],
  memory: HostTensor | undefined,
): Promise<Continuation> {
  const { runtime, config, maxPositions, padId } = decoder
  const { hidden_size: hidden } = config
  const batch = prompts.length
  const length = Math.max(...prompts.map(({ ids }) => ids.length))
  const starts = prompts.map(({ ids }) => length - ids.length)
  let filled = 0
  let capacity = Math.min(maxPositions, length + CACHE_STEP)
  const caches = await Promise.all(
    decoder.ranges.map((layers) => openKeyValueCache({ runtime, config, layers, batch, capacity })),
  )
  const noMemory = float32(new Float32Array(hidden), [1, hidden])
  let logits: Float32Array[] = []
  let closed = false

  /** Reads `count` new columns of every row: `tokens` is [batch, count]. */
  async function read(tokens: readonly number[], count: number, memoryRows?: readonly number[]): Promise<void> {
    const total = filled + count
    /** 0 where a new position sees an earlier one or itself, of the last `window` positions. */
    const biasWithin = (window: number) => {
      const bias = new Float32Array(batch * count * total).fill(HIDDEN)
      for (let row = 0; row < batch; row++) {
        for (let column = 0; column < count; column++) {
          const line = (row * count + column) * total
          const end = filled + column + 1
          const start = Math.max(starts[row] ?? 0, end - window)
          if (start < end) bias.fill(0, line + start, line + end)
        }
      }
      return float32(bias, [batch, 1, count, total])
    }
    const window = narrowWindow(config, maxPositions)
    const columns = Array.from({ length: batch * count }, (_, index) => index % count)
    const rows = Array.from({ length: batch * count }, (_, index) => Math.floor(index / count))
    const places = columns.map((column, index) => Math.max(0, filled + column - (starts[rows[index] ?? 0] ?? 0)))
    const feeds: StepFeeds = {
      ids: int64(tokens, [batch, count]),
      positions: int64(places, [batch, count]),
      bias: biasWithin(total),
      ...(window === undefined ? {} : { slidingBias: biasWithin(window) }),
      lastPositions: { dtype: 'int32', dims: [batch], data: new Int32Array(batch).fill(total - 1) },
      total: { dtype: 'int32', dims: [1], data: Int32Array.of(total) },
      memory: memory ?? noMemory,
      isMemory: {
        dtype: 'bool',
        dims: [batch, count, 1],
        data: Uint8Array.from(tokens, (_, at) => Number((memoryRows?.[at] ?? -1) >= 0)),
      },
      memoryIndex: int64(
        tokens.map((_, at) => Math.max(0, memoryRows?.[at] ?? 0)),
        [batch, count],
      ),
      lastRows: int64(
        prompts.map((_, row) => (row + 1) * count - 1),
        [batch],
      ),
    }
    const all = await decoder.step(feeds, caches, filled)
    filled += count
    const vocabulary = all.length / batch
    logits = prompts.map((_, row) => all.subarray(row * vocabulary, (row + 1) * vocabulary))
  }

  const padded = prompts.flatMap(({ ids }, row) => [...new Array<number>(starts[row] ?? 0).fill(padId), ...ids])
  const paddedMemory = prompts.flatMap(({ ids, memoryRows }, row) => [
    ...new Array<number>(starts[row] ?? 0).fill(-1),
    ...(memoryRows ?? ids.map(() => -1)),
  ])
  const continuation: Continuation = {
    get logits() {
      return logits
    },
    async append(tokens) {
      if (filled === capacity) {
        capacity = Math.min(maxPositions, capacity + CACHE_STEP)
        await Promise.all(caches.map((cache) => cache.resize(capacity)))
      }
      await read(tokens, 1)
    },
    async close() {
      if (closed) return
      closed = true
      await Promise.all(caches.map((cache) => cache.release()))
    },
    [Symbol.asyncDispose]: () => continuation.close(),
  }
  try {
    await read(padded, length, paddedMemory)
  } catch (error) {
    await continuation.close()
    throw error
  }
  return continuation
}

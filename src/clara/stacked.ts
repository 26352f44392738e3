import { gatherRows } from '../checkpoint/stored-tensor.ts'
import { float32, type HostTensor } from '../graph/dtype.ts'
import { addInput, addOutput, createGraph } from '../graph/graph.ts'
import type { Role } from '../lora/adapters.ts'
import { cachedLanguageModel } from '../model/cached.ts'
import { narrowWindow, openKeyValueCache } from '../model/cached-layers.ts'
import { finalNorm } from '../model/decoder.ts'
import type { LanguageModel } from '../model/generate.ts'
import { encodeGraph } from '../ops/table.ts'
import type { CompressorBatch } from './batch.ts'
import { compressorMemory, MEMORY_ROWS, memoryParameters, QUERY_PROJECTION } from './compressor.ts'
import { batchedEncoder, type Encoder, type EncoderOptions } from './encoder.ts'
import { type LayerStack, type LayerStackOptions, pickRows } from './layer-stack.ts'
import { declareBase, declareRole } from './network.ts'

// Compressor, query reasoner and generator on one stack of layers.

/** Added to the score of a pair of positions that may not see each other. */
const HIDDEN = -1e9

export interface StackedEncoderOptions extends Omit<EncoderOptions, 'role' | 'memoryOf' | 'positions'> {
  readonly stack: LayerStack
  readonly stackOptions: LayerStackOptions
  readonly role: Role
}

/** An encoder whose layers are those of a stack. Closing it leaves the stack open. */
export async function openStackedEncoder(options: StackedEncoderOptions): Promise<Encoder> {
  const { runtime, base, stack, stackOptions, role, pooling, parameters } = options
  const { config } = base
  const layers = pooling.config.compressorLayers ?? config.num_hidden_layers
  // the session that writes answers serves a compressor of as many layers that looks back only
  const isGenerators = pooling.config.attention === 'causal' && layers === config.num_hidden_layers
  const { [MEMORY_ROWS]: _embedded, ...learned } = memoryParameters(parameters, role)
  const graph = memoryGraph(options, QUERY_PROJECTION in learned)
  const session = await runtime.open(graph, stackOptions.stored.tensors)
  return batchedEncoder({
    pooling,
    padId: options.padId,
    width: config.hidden_size,
    async compress({ feeds }) {
      const embedded = await embedDocuments(stack, feeds, parameters.get(MEMORY_ROWS), config.hidden_size)
      const hidden = isGenerators
        ? await readCausally(options, embedded, feeds)
        : await stack.plain(role, embedded, { positions: feed(feeds, 'positions'), bias: feed(feeds, 'bias') }, layers)
      const { memory } = await session.run({ ...feeds, ...learned, embedded, hidden })
      return memory?.data as Float32Array
    },
    close: () => session.close(),
  })
}

/** What is behind the layers: final normalisation and pooling. */
function memoryGraph({ base, pooling, memoryTokens }: StackedEncoderOptions, projected: boolean) {
  const { config, vocabulary, embeddingNorm } = base
  const graph = createGraph('memory')
  const dims = ['documents*documentLength', config.hidden_size]
  const hidden = addInput(graph, 'hidden', 'float32', dims)
  const embedded = addInput(graph, 'embedded', 'float32', dims)
  const declared = declareBase(graph, config, vocabulary, 1)
  const { decoder } = declareRole(declared, undefined)
  const options = {
    role: 'encoder_adapter' as const,
    lora: undefined,
    config: pooling.config,
    memoryTokens,
    embeddingNorm,
    projected,
  }
  addOutput(graph, 'memory', compressorMemory(declared, options, embedded, finalNorm(decoder, hidden)).memory)
  return encodeGraph(graph)
}

type BatchFeeds = CompressorBatch['feeds']

function feed(feeds: BatchFeeds, name: string): HostTensor {
  const value = feeds[name]
  if (!value) throw new RangeError(`A batch of documents has no '${name}'.`)
  return value
}

/** Rows of all positions: embeddings of their tokens, and of memory tokens where they have some of their own. */
async function embedDocuments(
  stack: LayerStack,
  feeds: BatchFeeds,
  memoryRows: HostTensor | undefined,
  width: number,
): Promise<HostTensor> {
  const ids = Array.from(feed(feeds, 'ids').data, Number)
  const rows = await stack.embed(ids)
  const { isSlot, slot } = feeds
  if (isSlot && slot && memoryRows) {
    const learned = await gatherRows(memoryRows, Array.from(slot.data, Number))
    isSlot.data.forEach((flag, place) => {
      if (Number(flag) === 1) rows.set(learned.subarray(place * width, (place + 1) * width), place * width)
    })
  }
  return float32(rows, [ids.length, width])
}

/** The states of documents without a past, through the layers with a cache that stays empty. */
async function readCausally(
  { runtime, base, stack, stackOptions, role }: StackedEncoderOptions,
  embedded: HostTensor,
  feeds: BatchFeeds,
): Promise<HostTensor> {
  const { config } = base
  const positions = feed(feeds, 'positions')
  const [batch = 0, length = 0] = positions.dims
  const bias = float32(feed(feeds, 'bias').data as Float32Array, [batch, 1, length, length])
  const window = narrowWindow(config, stackOptions.positions)
  const caches = await Promise.all(
    stack.ranges.map((layers) => openKeyValueCache({ runtime, config, layers, batch, capacity: 0 })),
  )
  try {
    const given = {
      positions,
      bias,
      ...(window === undefined ? {} : { slidingBias: within(bias, window) }),
      lastPositions: { dtype: 'int32', dims: [batch], data: new Int32Array(batch).fill(length - 1) },
      total: { dtype: 'int32', dims: [1], data: Int32Array.of(length) },
    } as const
    return await stack.cached(role, embedded, given, { caches, filled: 0, keep: false })
  } finally {
    await Promise.all(caches.map((cache) => cache.release()))
  }
}

/** A bias under which a position sees no more than a window. */
function within({ dims, data }: HostTensor, window: number): HostTensor {
  const length = dims[3] ?? 0
  const narrow = Float32Array.from(data as Float32Array, (value, at) => {
    const [query, key] = [Math.floor(at / length) % length, at % length]
    return query - key < window ? value : HIDDEN
  })
  return float32(narrow, dims)
}

export interface StackedGeneratorOptions {
  readonly stack: LayerStack
  readonly stackOptions: LayerStackOptions
  readonly padId: number
}

/** A generator whose layers are those of a stack. Closing it leaves the stack open. */
export function openStackedGenerator({ stack, stackOptions, padId }: StackedGeneratorOptions): LanguageModel {
  const { runtime, config } = stackOptions
  const width = config.hidden_size
  return cachedLanguageModel({
    runtime,
    config,
    maxPositions: stackOptions.positions,
    padId,
    ranges: stack.ranges,
    async step({ ids, memory, isMemory, memoryIndex, lastRows, ...feeds }, caches, filled) {
      const rows = await stack.embed(Array.from(ids.data, Number))
      const remembered = await gatherRows(memory, Array.from(memoryIndex.data, Number))
      isMemory.data.forEach((flag, place) => {
        if (Number(flag) === 1) rows.set(remembered.subarray(place * width, (place + 1) * width), place * width)
      })
      const entering = float32(rows, [ids.data.length, width])
      const state = await stack.cached('decoder_adapter', entering, feeds, { caches, filled, keep: true })
      return stack.head(pickRows(state, Array.from(lastRows.data, Number)))
    },
    close: async () => {},
  })
}

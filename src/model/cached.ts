import { float32, type HostTensor, int64 } from '../graph/dtype.ts'
import { addInput, addOutput, createGraph, type Graph, type Tensor } from '../graph/graph.ts'
import { multiplyDims } from '../graph/shape.ts'
import { cachedAttention } from '../ops/attention.ts'
import { where } from '../ops/elementwise.ts'
import { gather } from '../ops/indexing.ts'
import { concat, reshape, transpose } from '../ops/layout.ts'
import { encodeGraph } from '../ops/table.ts'
import type { Part, Resident, Runtime, Session } from '../runtime/runtime.ts'
import type { DecoderConfig } from './config.ts'
import { type Decoder, decoderLayer, finalNorm, rotated } from './decoder.ts'
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

export interface CachedModelOptions {
  readonly runtime: Runtime
  readonly config: DecoderConfig
  readonly maxPositions: number
  readonly padId: number
  readonly parts: (graph: Graph) => CachedParts
  readonly weights: ReadonlyMap<string, HostTensor>
}

/**
 * A decoder with a key-value cache. One graph serves the prompt and every later token: it reads `length` new positions and
 * the cache, and gives logits and the new keys and values, which stay in the runtime's thread.
 */
export async function openCachedModel(options: CachedModelOptions): Promise<LanguageModel> {
  const session = await options.runtime.open(cachedGraph(options), options.weights)
  const model: LanguageModel = {
    maxPositions: options.maxPositions,
    start: (prompts, memory) => startContinuation(options, session, prompts, memory),
    close: () => session.close(),
    [Symbol.asyncDispose]: () => model.close(),
  }
  return model
}

function cachedGraph({ config, parts }: CachedModelOptions) {
  const graph = createGraph('generation')
  const { decoder, embed, head } = parts(graph)
  const { num_attention_heads: heads, num_key_value_heads: groups, head_dim: width, hidden_size: hidden } = config
  const [batch, length] = ['batch', 'length']
  const ids = addInput(graph, 'ids', 'int64', [batch, length])
  const positions = addInput(graph, 'positions', 'int64', [batch, length])
  const bias = addInput(graph, 'bias', 'float32', [batch, 1, length, 'total'])
  const lastPositions = addInput(graph, 'lastPositions', 'int32', [batch])
  const total = addInput(graph, 'total', 'int32', [1])
  const memory = addInput(graph, 'memory', 'float32', ['memories', hidden])
  const isMemory = addInput(graph, 'isMemory', 'bool', [batch, length, 1])
  const memoryIndex = addInput(graph, 'memoryIndex', 'int64', [batch, length])
  const lastRows = addInput(graph, 'lastRows', 'int64', [batch])
  const at = { batch, length, positions, attentionBias: bias }
  const byHead = (x: Tensor) => transpose(reshape(x, [batch, length, groups, width]), [0, 2, 1, 3])
  const news: Tensor[] = []
  let state = reshape(where(isMemory, gather(memory, memoryIndex), embed(ids)), [-1, hidden])
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const past = {
      keys: addInput(graph, `keys.${layer}`, 'float32', [batch, groups, 'capacity', width]),
      values: addInput(graph, `values.${layer}`, 'float32', [batch, groups, 'capacity', width]),
    }
    state = decoderLayer(decoder, layer, state, (queryRows, keyRows, valueRows) => {
      const keys = rotated(decoder, keyRows, groups, at)
      const values = reshape(valueRows, [batch, length, groups * width])
      news.push(byHead(keys), byHead(values))
      const options = { heads, groups, past, lastPositions, total, bias }
      const context = cachedAttention(rotated(decoder, queryRows, heads, at), keys, values, options)
      return reshape(context, [multiplyDims(batch, length), heads * width])
    })
  }
  // one output instead of two a layer: handing over each costs more than the joining
  addOutput(graph, 'keyValues', concat(news, 0))
  addOutput(graph, 'logits', head(finalNorm(decoder, gather(state, lastRows))))
  return encodeGraph(graph)
}

async function startContinuation(
  { runtime, config, maxPositions, padId }: CachedModelOptions,
  session: Session,
  prompts: readonly GenerationPrompt[],
  memory: HostTensor | undefined,
): Promise<Continuation> {
  const { num_key_value_heads: groups, head_dim: width, hidden_size: hidden, num_hidden_layers: layers } = config
  const batch = prompts.length
  const length = Math.max(...prompts.map(({ ids }) => ids.length))
  const starts = prompts.map(({ ids }) => length - ids.length)
  let filled = 0
  let capacity = Math.min(maxPositions, length + CACHE_STEP)
  const names = Array.from({ length: layers }, (_, layer) => [`keys.${layer}`, `values.${layer}`]).flat()
  // all layers' keys and values below each other
  const allocate = (positions: number) => runtime.allocate('float32', [names.length * batch, groups, positions, width])
  const cache = await allocate(capacity)
  const nothing = await allocate(0)
  /** Each layer's part of the cache. */
  const partsOf = (resident: Resident): Record<string, Part> =>
    Object.fromEntries(
      names.map((name, index) => [name, { ...resident, from: index * batch, to: (index + 1) * batch }]),
    )
  const [pastParts, noParts] = [partsOf(cache), partsOf(nothing)]
  const noMemory = float32(new Float32Array(hidden), [1, hidden])
  let logits: Float32Array[] = []
  let closed = false

  /** Reads `count` new columns of every row: `tokens` is [batch, count]. */
  async function read(tokens: readonly number[], count: number, memoryRows?: readonly number[]): Promise<void> {
    const total = filled + count
    const bias = new Float32Array(batch * count * total).fill(HIDDEN)
    for (let row = 0; row < batch; row++) {
      const start = starts[row] ?? 0
      for (let column = 0; column < count; column++) {
        const line = (row * count + column) * total
        if (start <= filled + column) bias.fill(0, line + start, line + filled + column + 1)
      }
    }
    const columns = Array.from({ length: batch * count }, (_, index) => index % count)
    const rows = Array.from({ length: batch * count }, (_, index) => Math.floor(index / count))
    const places = columns.map((column, index) => Math.max(0, filled + column - (starts[rows[index] ?? 0] ?? 0)))
    const feeds: Record<string, HostTensor | Part> = {
      // a prompt has no past: the cache is there for what comes after
      ...(filled === 0 ? noParts : pastParts),
      ids: int64(tokens, [batch, count]),
      positions: int64(places, [batch, count]),
      bias: float32(bias, [batch, 1, count, total]),
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
    const store = { keyValues: { ...cache, axis: 2, start: filled } }
    const results = await session.run(feeds, { fetch: ['logits'], store })
    filled += count
    const all = results['logits']?.data as Float32Array
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
        await runtime.resize(cache, 2, capacity)
      }
      await read(tokens, 1)
    },
    async close() {
      if (closed) return
      closed = true
      await runtime.release(cache)
      await runtime.release(nothing)
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

import { gatherRows } from '../checkpoint/stored-tensor.ts'
import { type FileTensor, float32, type HostTensor } from '../graph/dtype.ts'
import { addInput, addOutput, createGraph } from '../graph/graph.ts'
import type { EncodedModel } from '../graph/onnx.ts'
import { factorName, type LoraSize, type Role } from '../lora/adapters.ts'
import { cachedLayers, declareCachedInputs, type KeyValueCache, type LayerRange } from '../model/cached-layers.ts'
import { type DecoderConfig, linearModules } from '../model/config.ts'
import { attention, decoderLayer, finalNorm } from '../model/decoder.ts'
import { storedLinear } from '../model/stored.ts'
import type { WeightKind } from '../model/weight-kinds.ts'
import { encodeGraph } from '../ops/table.ts'
import type { Part, Resident, Runtime, Session } from '../runtime/runtime.ts'
import { declareBase, declareRole, EMBEDDING, HEAD } from './network.ts'

/** A base whose linear layers, embedding and head are kept as one kind, in files or in memory. */
export interface StoredBase {
  readonly kind: WeightKind
  /** Layers and normalisations by the names of their parts, the table `model.embed_tokens.weight`, and the head's parts. */
  readonly tensors: ReadonlyMap<string, HostTensor | FileTensor>
}

/** The head decides between tokens: of the small weights it is kept as 8 bits where the layers have 4. */
export const headKind = (kind: WeightKind): WeightKind => (kind === 'int4' ? 'int8' : kind)

export interface LayerStackOptions {
  readonly runtime: Runtime
  readonly config: DecoderConfig
  readonly vocabulary: number
  readonly stored: StoredBase
  /** Trained parameters by name: the factors of all roles. */
  readonly adapters: ReadonlyMap<string, HostTensor>
  readonly size: LoraSize
  /** Longest sequence. */
  readonly positions: number
  /** Whether only one layer's weights are in memory at a time. */
  readonly lowMemory: boolean
}

type Feeds = Readonly<Record<string, HostTensor | Resident | Part>>

/**
 * The layers of one base for all roles: the base is there once, and a role's adapter is fed beside it. Either all layers are
 * one session that stays open, or each is a session of its own, opened when its turn comes and closed behind it.
 */
export interface LayerStack {
  readonly ranges: readonly LayerRange[]
  /** Rows of the embedding. */
  embed(ids: readonly number[]): Promise<Float32Array>
  /**
   * Runs rows [batch * length, hidden_size] through all layers, each position seeing those before it.
   * @param feeds What {@link declareCachedInputs} declares.
   * @param caches One a range; without them the positions have no past, and leave nothing behind.
   */
  cached(role: Role, rows: HostTensor, feeds: Feeds, caches: StackCaches): Promise<HostTensor>
  /** Runs rows through the first `layers` layers with a bias [batch, 1, 1, length, length] (`positions`, `bias`). */
  plain(role: Role, rows: HostTensor, feeds: Feeds, layers: number): Promise<HostTensor>
  /** Logits [rows, vocabulary] of rows from the last layer. */
  head(rows: HostTensor): Promise<Float32Array>
  close(): Promise<void>
}

export interface StackCaches {
  readonly caches: readonly KeyValueCache[]
  readonly filled: number
  /** Whether new keys and values are stored. */
  readonly keep: boolean
}

/** The adapter under whose names all adapters are fed. */
const ANY_ROLE = 'encoder_adapter'

export async function openLayerStack(options: LayerStackOptions): Promise<LayerStack> {
  const { runtime, config, stored, adapters, lowMemory } = options
  const count = config.num_hidden_layers
  const ranges: readonly LayerRange[] = lowMemory
    ? Array.from({ length: count }, (_, layer): LayerRange => [layer, layer + 1])
    : [[0, count]]
  const factors = new Map<string, Resident>()
  for (const [name, value] of adapters) {
    if (name.includes('.lora_')) factors.set(name, await runtime.share(value))
  }
  const graphs = new Map<string, EncodedModel>()
  const sessions = new Map<string, Promise<Session>>()

  /** Lends a session over layers: one that stays, or one for this action alone. */
  const withLayers = async <Result>(
    kind: Attention,
    range: LayerRange,
    action: (session: Session) => Promise<Result>,
  ): Promise<Result> => {
    const key = `${kind}:${range.join('-')}`
    const model = graphs.get(key) ?? layersGraph(options, kind, range)
    graphs.set(key, model)
    if (lowMemory) {
      await using session = await runtime.open(model, stored.tensors, { keepMemory: false })
      return await action(session)
    }
    const session = sessions.get(key) ?? runtime.open(model, stored.tensors)
    sessions.set(key, session)
    return action(await session)
  }

  const modules = [...linearModules(config).keys()]
  const factorFeeds = (role: Role, [from, to]: LayerRange): Feeds => {
    const feeds: Record<string, Resident> = {}
    for (let layer = from; layer < to; layer++) {
      for (const module of modules) {
        for (const factor of ['A', 'B'] as const) {
          const own = factors.get(factorName(layer, module, factor, role))
          if (!own) throw new RangeError(`The adapter lacks '${factorName(layer, module, factor, role)}'.`)
          feeds[factorName(layer, module, factor, ANY_ROLE)] = own
        }
      }
    }
    return feeds
  }

  // what every answer needs is there before the first one
  for (const range of lowMemory ? [] : ranges) await withLayers('cached', range, async () => {})
  const headSession = await runtime.open(headGraph(options), stored.tensors)
  const embedding = stored.tensors.get(EMBEDDING)
  if (!embedding) throw new RangeError('The stored base has no embedding.')
  return {
    ranges,
    embed: (ids) => gatherRows(embedding, ids),
    async cached(role, rows, feeds, { caches, filled, keep }) {
      let state = rows
      for (const [index, range] of ranges.entries()) {
        const cache = caches[index]
        if (!cache) throw new RangeError('There is a cache for each range of layers.')
        const given = { ...feeds, ...cache.feeds(filled), ...factorFeeds(role, range), rows: state }
        const stores = keep ? { store: { keyValues: cache.store(filled) } } : {}
        const results = await withLayers('cached', range, (session) =>
          session.run(given, { fetch: ['rows'], ...stores }),
        )
        state = outputOf(results, 'rows')
      }
      return state
    },
    async plain(role, rows, feeds, layers) {
      const parts: readonly LayerRange[] = lowMemory ? ranges.slice(0, layers) : [[0, layers]]
      let state = rows
      for (const range of parts) {
        const given = { ...feeds, ...factorFeeds(role, range), rows: state }
        state = outputOf(await withLayers('plain', range, (session) => session.run(given)), 'rows')
      }
      return state
    },
    async head(rows) {
      return outputOf(await headSession.run({ rows }), 'logits').data as Float32Array
    },
    async close() {
      for (const session of [...sessions.values(), headSession]) await (await session).close()
      for (const factor of factors.values()) await runtime.release(factor)
    },
  }
}

type Attention = 'cached' | 'plain'

function layersGraph(options: LayerStackOptions, kind: Attention, range: LayerRange): EncodedModel {
  const { config, vocabulary, stored, positions, size } = options
  const [from, to] = range
  const graph = createGraph(`layers_${from}_to_${to}`)
  const [batch, length] = ['batch', 'length']
  // behind the inputs that say what a batch and a length are
  const declareRows = () => addInput(graph, 'rows', 'float32', [`${batch}*${length}`, config.hidden_size])
  const base = { ...declareBase(graph, config, vocabulary, positions), linear: storedLinear(graph, stored.kind) }
  const { decoder } = declareRole(base, ANY_ROLE, { size, layers: to })
  if (kind === 'cached') {
    const at = declareCachedInputs(graph, config, positions)
    const result = cachedLayers(decoder, declareRows(), at, range)
    addOutput(graph, 'rows', result.rows)
    addOutput(graph, 'keyValues', result.keyValues)
  } else {
    const at = {
      batch,
      length,
      positions: addInput(graph, 'positions', 'int64', [batch, length]),
      attentionBias: addInput(graph, 'bias', 'float32', [batch, 1, 1, length, length]),
    }
    const attend = attention(decoder, at)
    let state = declareRows()
    for (let layer = from; layer < to; layer++) state = decoderLayer(decoder, layer, state, attend)
    addOutput(graph, 'rows', state)
  }
  return encodeGraph(graph)
}

function headGraph({ config, vocabulary, stored }: LayerStackOptions): EncodedModel {
  const graph = createGraph('head')
  const rows = addInput(graph, 'rows', 'float32', ['rows', config.hidden_size])
  const { decoder } = declareRole(declareBase(graph, config, vocabulary, 1), undefined)
  const product = storedLinear(graph, headKind(stored.kind))
  addOutput(graph, 'logits', product(finalNorm(decoder, rows), HEAD, [vocabulary, config.hidden_size]))
  return encodeGraph(graph)
}

function outputOf(results: Readonly<Record<string, HostTensor>>, name: string): HostTensor {
  const value = results[name]
  if (!value) throw new RangeError(`There is no output '${name}'.`)
  return value
}

/** Some rows of a matrix [rows, width], in their order. */
export function pickRows({ dims, data }: HostTensor, indices: readonly number[]): HostTensor {
  const width = dims[1] ?? 0
  const picked = new Float32Array(indices.length * width)
  indices.forEach((index, place) => {
    picked.set(data.subarray(index * width, (index + 1) * width) as Float32Array, place * width)
  })
  return float32(picked, [indices.length, width])
}

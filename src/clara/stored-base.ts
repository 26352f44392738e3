import { createHash } from 'node:crypto'
import { basename, join, resolve } from 'node:path'
import type { PlannedTensor } from '../checkpoint/safetensors.ts'
import { readStored } from '../checkpoint/stored-tensor.ts'
import { type CachedTensors, cachedTensors, cacheFolder } from '../checkpoint/tensor-cache.ts'
import type { WeightSource } from '../checkpoint/weights.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { type DecoderConfig, layerParameters, linearModules, linearWeightNames } from '../model/config.ts'
import { storedParts, storeWeight } from '../model/stored.ts'
import type { WeightKind } from '../model/weight-kinds.ts'
import { toShared } from '../runtime/runtime.ts'
import { type BaseModel, readParameter } from './base.ts'
import { MEMORY_ROWS } from './compressor.ts'
import { headKind, type StoredBase } from './layer-stack.ts'
import { EMBEDDING, HEAD } from './network.ts'

/** How a model's weights are kept in files. */
export interface StoreOptions {
  readonly kind: WeightKind
  /** Folder of the files. Default: see `cacheFolder`. */
  readonly folder?: string | undefined
  /** Told, in a sentence, what is written and why. */
  readonly onNotice?: ((message: string) => void) | undefined
}

/** A path for what is made of a model: one a source and kind, so that a changed source replaces its file. */
function cachePath({ kind, folder }: StoreOptions, source: string, what: string): string {
  const where = createHash('sha256').update(resolve(source)).digest('hex').slice(0, 12)
  return join(folder ?? cacheFolder(), `${basename(resolve(source))}-${where}-${what}-${kind}.safetensors`)
}

/** The layers of a base, written to a file a weight at a time, and its fingerprint, which is known from then on. */
export async function storedLayers(
  source: WeightSource,
  config: DecoderConfig,
  options: StoreOptions,
): Promise<CachedTensors> {
  const { kind } = options
  const linear: (readonly [name: string, dims: readonly number[]])[] = []
  const others: (readonly [name: string, dims: readonly number[]])[] = [['model.norm.weight', [config.hidden_size]]]
  const modules = new Set([...linearModules(config).keys()].map((module) => `${module}.weight`))
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    for (const [name, dims] of layerParameters(config)) {
      const place = modules.has(name) ? linear : others
      place.push([`model.layers.${layer}.${name}`, dims])
    }
  }
  const plan = {
    path: cachePath(options, source.path, 'layers'),
    source: await source.identity(),
    tensors: [
      ...others.map(([name, dims]): PlannedTensor => ({ name, dtype: 'float32', dims })),
      ...linear.flatMap(([name, dims]) => storedParts(kind, name, dims)),
    ],
    onNotice: options.onNotice,
  }
  return cachedTensors(plan, async () => ({
    facts: { fingerprint: await source.fingerprint() },
    tensors: (async function* () {
      for (const [name, dims] of others) yield await readParameter(source, name, dims)
      for (const [name, dims] of linear) yield* storeWeight(kind, name, await readParameter(source, name, dims))
    })(),
  }))
}

/** What a model puts before and behind the layers of its base, float32. */
export interface ModelTables {
  /** [vocabulary, hidden_size] */
  readonly embedding: HostTensor
  /** The same shape; undefined: the embedding. */
  readonly head: HostTensor | undefined
  /** Learned rows of memory tokens, where the model has them. */
  readonly memoryRows: HostTensor | undefined
  /** Mean L2 norm of the base's own embedding rows. */
  readonly embeddingNorm: number
  /** Of the whole model. */
  readonly fingerprint: string
}

export interface StoredTablesOptions extends StoreOptions {
  /** Folder of the model. */
  readonly model: string
  /** What decides the tables. */
  readonly source: string
  readonly dims: readonly [vocabulary: number, hidden: number]
  /** Learned memory tokens; 0: none. */
  readonly memoryTokens: number
}

export interface StoredTables extends Pick<ModelTables, 'memoryRows' | 'embeddingNorm' | 'fingerprint'> {
  readonly tensors: CachedTensors['tensors']
}

/** The tables of a model, kept in a file. */
export async function storedTables(
  options: StoredTablesOptions,
  make: () => Promise<ModelTables>,
): Promise<StoredTables> {
  const { kind, dims, memoryTokens } = options
  const rows: PlannedTensor[] =
    memoryTokens > 0 ? [{ name: MEMORY_ROWS, dtype: 'float32', dims: [memoryTokens, dims[1]] }] : []
  const embeddingKind = tableKind(kind)
  const plan = {
    path: cachePath(options, options.model, 'tables'),
    source: options.source,
    tensors: [...rows, ...storedParts(embeddingKind, EMBEDDING, dims), ...storedParts(headKind(kind), HEAD, dims)],
    onNotice: options.onNotice,
  }
  const { tensors, facts } = await cachedTensors(plan, async () => {
    const { embedding, head, memoryRows, embeddingNorm, fingerprint } = await make()
    return {
      facts: { fingerprint, embeddingNorm: String(embeddingNorm) },
      tensors: (async function* () {
        if (memoryRows) yield memoryRows
        yield* storeWeight(embeddingKind, EMBEDDING, embedding)
        yield* storeWeight(headKind(kind), HEAD, head ?? embedding)
      })(),
    }
  })
  const memoryRows = tensors.get(MEMORY_ROWS)
  return {
    tensors,
    memoryRows: memoryRows && (await readStored(memoryRows)),
    embeddingNorm: Number(facts.get('embeddingNorm')),
    fingerprint: facts.get('fingerprint') ?? '',
  }
}

/** Of the embedding only rows are read: it costs no memory. */
const tableKind = (kind: WeightKind): WeightKind => (kind === 'fp32' ? 'fp32' : 'fp16')

/** The weights of a base in memory, as a stack of layers runs on them. */
export function storeBase({ config, weights, vocabulary }: BaseModel, kind: WeightKind): StoredBase {
  const tensors = new Map<string, HostTensor>()
  const required = (name: string) => {
    const weight = weights.get(name)
    if (!weight) throw new RangeError(`The base has no weight '${name}'.`)
    return weight
  }
  const store = (as: WeightKind, name: string, weight: HostTensor) => {
    const values = storeWeight(as, name, weight)
    for (const [index, part] of storedParts(as, name, weight.dims).entries()) {
      const value = values[index]
      if (value) tensors.set(part.name, toShared(value))
    }
  }
  const linear = new Set(linearWeightNames(config))
  for (const [name, weight] of weights) {
    if (linear.has(name)) store(kind, name, weight)
    else if (name !== EMBEDDING && name !== HEAD) tensors.set(name, weight)
  }
  store(tableKind(kind), EMBEDDING, required(EMBEDDING))
  store(headKind(kind), HEAD, {
    ...required(config.tie_word_embeddings ? EMBEDDING : HEAD),
    dims: [vocabulary, config.hidden_size],
  })
  return { kind, tensors }
}

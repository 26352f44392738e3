import { createHash } from 'node:crypto'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { filesIdentity } from '../checkpoint/identity.ts'
import { openWeights } from '../checkpoint/weights.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { type DecoderConfig, linearModules, parseDecoderConfig } from '../model/config.ts'
import type { WeightKind } from '../model/weight-kinds.ts'
import { toShared } from '../runtime/runtime.ts'
import { loadTokenizer } from '../tokenizer/load.ts'
import { type BaseModel, readEmbeddingNorm, readTables } from './base.ts'
import { MEMORY_ROWS } from './compressor.ts'
import { memoryLength } from './config.ts'
import { addedTokens, type ClaraModel, type ModelOptions, placeRows } from './model.ts'
import {
  basePlaces,
  checkBaseFingerprint,
  checkParameters,
  IDF,
  modelFingerprint,
  readModelFile,
  readTensors,
  SPECIAL_HEAD_ROWS,
  SPECIAL_ROWS,
} from './model-folder.ts'
import { EMBEDDING, HEAD } from './network.ts'
import { checkpointTensors, openModel } from './open.ts'
import { findPublishedBase, readPublishedParts, withTables } from './published.ts'
import { layoutOf, settingsOf } from './published-config.ts'
import { stopTokens } from './stop-tokens.ts'
import { type StoredTables, type StoreOptions, storedLayers, storedTables } from './stored-base.ts'

/** What decides whether a model's weights are kept in files. */
export interface InferenceModelOptions extends StoreOptions {
  /** Whether only one layer's weights shall be in memory at a time. */
  readonly lowMemory: boolean
}

/** Weights of linear layers above which a base is not held in memory as float32, not even while it is quantised. */
const LARGE = 1e9

/** Whether weights of a kind are those of a stack of layers (see `LayerStack`), not of a session for each role. */
export const isStacked = (kind: WeightKind, lowMemory: boolean): boolean =>
  lowMemory || kind === 'fp16' || kind === 'int4'

function isStored(decoder: DecoderConfig, { kind, lowMemory }: InferenceModelOptions): boolean {
  const inLayer = [...linearModules(decoder).values()].reduce((sum, [out, input]) => sum + out * input, 0)
  return isStacked(kind, lowMemory) || (kind !== 'fp32' && inLayer * decoder.num_hidden_layers > LARGE)
}

/**
 * Opens a model for inference. Its weights come into memory as they are or, where they would not fit or are wanted in a kind
 * that is made from them, lie in files of the cache, which are written now unless an earlier start has.
 */
export async function openInferenceModel(
  folder: string,
  model: ModelOptions,
  options: InferenceModelOptions,
): Promise<ClaraModel> {
  if ((await layoutOf(folder)) === 'published') {
    const { decoder } = await findPublishedBase(folder, model)
    return isStored(decoder, options) ? publishedModel(folder, model, options) : openModel(folder, model)
  }
  const { base } = basePlaces(folder, await readModelFile(folder), model.base)
  await using source = await openWeights(base)
  return isStored(parseDecoderConfig(source.config), options)
    ? ownModel(folder, model, options)
    : openModel(folder, model)
}

async function publishedModel(folder: string, model: ModelOptions, options: StoreOptions): Promise<ClaraModel> {
  const parts = await readPublishedParts(folder, model)
  const { tokenizer, decoder, memory } = parts
  const config = settingsOf(parts.config)
  await using source = await openWeights(parts.baseFolder)
  const layers = await storedLayers(source, decoder, options)
  const baseFingerprint = layers.facts.get('fingerprint') ?? ''
  const baseVocabulary = tokenizer.baseVocabularySize
  const vocabulary = tokenizer.vocabularySize
  const memoryTokens = memory.differentMemTokens ? memoryLength(config) : 1
  const tables = await storedTables(
    {
      ...options,
      model: folder,
      source: await modelIdentity(folder, baseFingerprint),
      dims: [vocabulary, decoder.hidden_size],
      memoryTokens,
    },
    async () => {
      const embeddingNorm = await readEmbeddingNorm(source, { baseVocabulary, vocabulary })
      const checkpoint = await withTables(parts)
      const { embedding, head, memoryRows } = checkpoint
      const fingerprint = modelFingerprint(baseFingerprint, config, await checkpointTensors(checkpoint))
      return { embedding, head, memoryRows, embeddingNorm, fingerprint }
    },
  )
  const parameters = new Map<string, HostTensor>()
  for (const [role, adapter] of parts.adapters) {
    if (role === 'query_reasoner_adapter' && !parts.hasQueryReasoner) continue
    for (const [name, value] of adapter) parameters.set(name, toShared(value))
  }
  if (tables.memoryRows) parameters.set(MEMORY_ROWS, tables.memoryRows)
  return {
    base: baseOf(decoder, { vocabulary, baseVocabulary }, options.kind, layers, tables),
    tokenizer,
    firstMemoryToken: parts.firstMemoryToken,
    memoryTokens,
    config,
    parameters,
    idf: undefined,
    stopIds: await stopTokens(parts.baseFolder, tokenizer),
    stage: parts.config.training_stage,
    fingerprint: tables.fingerprint,
  }
}

async function ownModel(folder: string, model: ModelOptions, options: StoreOptions): Promise<ClaraModel> {
  const file = await readModelFile(folder)
  const { clara: config } = file
  const places = basePlaces(folder, file, model.base)
  const baseTokenizer = await loadTokenizer(places.tokenizer)
  const tokenizer = baseTokenizer.withAddedTokens(addedTokens(config))
  const sizes = { baseVocabulary: baseTokenizer.vocabularySize, vocabulary: tokenizer.vocabularySize }
  await using source = await openWeights(places.base)
  const decoder = parseDecoderConfig(source.config)
  const layers = await storedLayers(source, decoder, options)
  const baseFingerprint = layers.facts.get('fingerprint') ?? ''
  checkBaseFingerprint(folder, file, places.base, baseFingerprint)
  const memoryTokens = config.different_mem_tokens ? memoryLength(config) : 1
  const parameters = await readTensors(folder)
  checkParameters(folder, { decoder, ...sizes, memoryTokens }, config, parameters)
  const tables = await storedTables(
    {
      ...options,
      model: folder,
      source: await modelIdentity(folder, baseFingerprint),
      dims: [sizes.vocabulary, decoder.hidden_size],
      memoryTokens: 0,
    },
    async () => {
      const { embedding, head, embeddingNorm } = await readTables(source, decoder, sizes)
      const weights = new Map([[EMBEDDING, embedding]])
      if (head) weights.set(HEAD, head)
      placeRows({ config: decoder, weights, baseVocabulary: sizes.baseVocabulary }, parameters)
      const fingerprint = modelFingerprint(baseFingerprint, config, parameters)
      return { embedding, head, memoryRows: undefined, embeddingNorm, fingerprint }
    },
  )
  const idf = parameters.get(IDF)?.data
  for (const name of [IDF, SPECIAL_ROWS, SPECIAL_HEAD_ROWS, EMBEDDING, HEAD]) parameters.delete(name)
  return {
    base: baseOf(decoder, sizes, options.kind, layers, tables),
    tokenizer,
    firstMemoryToken: sizes.baseVocabulary,
    memoryTokens,
    config,
    parameters: new Map([...parameters].map(([name, value]) => [name, toShared(value)])),
    idf: idf instanceof Float32Array ? idf : undefined,
    stopIds: await stopTokens(places.base, tokenizer),
    stage: file.stage,
    fingerprint: tables.fingerprint,
  }
}

function baseOf(
  config: DecoderConfig,
  sizes: Pick<BaseModel, 'vocabulary' | 'baseVocabulary'>,
  kind: WeightKind,
  layers: Awaited<ReturnType<typeof storedLayers>>,
  tables: StoredTables,
): BaseModel {
  return {
    config,
    weights: new Map(),
    ...sizes,
    embeddingNorm: tables.embeddingNorm,
    fingerprint: layers.facts.get('fingerprint') ?? '',
    stored: { kind, tensors: new Map([...layers.tensors, ...tables.tensors]) },
  }
}

/** What tells one state of a model's own files, on one base, from another. */
async function modelIdentity(folder: string, baseFingerprint: string): Promise<string> {
  const names = (await readdir(folder)).filter((name) => /\.(json|pth|safetensors)$/.test(name)).sort()
  const files = await filesIdentity(names.map((name) => join(folder, name)))
  return createHash('sha256').update(`${files} ${baseFingerprint}`).digest('hex')
}

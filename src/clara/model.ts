import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { openWeights } from '../checkpoint/weights.ts'
import { ClaraError } from '../errors.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { loadTokenizer } from '../tokenizer/load.ts'
import type { Tokenizer } from '../tokenizer/types.ts'
import { type BaseModel, loadBase } from './base.ts'
import { MEMORY_ROWS } from './compressor.ts'
import { type ClaraConfig, memoryLength } from './config.ts'
import {
  ADAPTERS_FILE,
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
import { claraTokens } from './prompts.ts'
import { stopTokens } from './stop-tokens.ts'

/** A CLaRa model in memory, before anything runs. */
export interface ClaraModel {
  readonly base: BaseModel
  /** Knows CLaRa's tokens. */
  readonly tokenizer: Tokenizer
  /** Id of the first memory token. */
  readonly firstMemoryToken: number
  readonly memoryTokens: number
  readonly config: ClaraConfig
  /** Learned parameters by name: adapters of the roles, memory rows, salient weights. */
  readonly parameters: ReadonlyMap<string, HostTensor>
  /** Rarity of every token (memory 'salient'). */
  readonly idf: Float32Array | undefined
  /** Tokens that end an answer. Default: the tokenizer's end of text. */
  readonly stopIds?: readonly number[]
  readonly stage: string
  /** Changes with anything that changes a memory. */
  readonly fingerprint: string
}

/** Default folder of the model that comes with the package. */
export const embeddedModel = (): string => fileURLToPath(new URL('../../models/clara-smollm2-135m', import.meta.url))

export interface ModelOptions {
  /** The base model: a folder or a .gguf file. Default: the one that the model's configuration names. */
  readonly base?: string | undefined
}

/**
 * Loads a model folder (config.json + adapters.safetensors).
 * @throws ClaraError when a file is missing, damaged, or belongs to another base.
 */
export async function loadModel(folder: string, options: ModelOptions = {}): Promise<ClaraModel> {
  const file = await readModelFile(folder)
  const { clara: config } = file
  const places = basePlaces(folder, file, options.base)
  const baseTokenizer = await loadTokenizer(places.tokenizer)
  const tokenizer = baseTokenizer.withAddedTokens(addedTokens(config))
  await using source = await openWeights(places.base)
  const base = await loadBase(source, {
    baseVocabulary: baseTokenizer.vocabularySize,
    vocabulary: tokenizer.vocabularySize,
  })
  checkBaseFingerprint(folder, file, places.base, base.fingerprint)
  const memoryTokens = config.different_mem_tokens ? memoryLength(config) : 1
  const parameters = await readTensors(folder)
  const fingerprint = modelFingerprint(base.fingerprint, config, parameters)
  const { vocabulary, baseVocabulary } = base
  checkParameters(folder, { decoder: base.config, vocabulary, baseVocabulary, memoryTokens }, config, parameters)
  const idf = parameters.get(IDF)?.data as Float32Array | undefined
  placeRows(base, parameters)
  for (const name of [IDF, ...TABLES]) parameters.delete(name)
  return {
    base,
    tokenizer,
    firstMemoryToken: baseTokenizer.vocabularySize,
    memoryTokens,
    config,
    parameters,
    idf,
    stopIds: await stopTokens(places.base, tokenizer),
    stage: file.stage,
    fingerprint,
  }
}

/** What a model's settings add to the tokenizer of its base. */
export const addedTokens = (config: ClaraConfig): string[] =>
  claraTokens({
    count: memoryLength(config),
    differentMemTokens: config.different_mem_tokens,
    kbtcTraining: config.kbtc_training ?? false,
  })

/** The learned parameters of a model folder, and what they were trained beside. */
interface ReadAdapters {
  readonly parameters: ReadonlyMap<string, HostTensor>
  /** Embeddings of the added tokens. */
  readonly specialRows: Float32Array
  /** Rarity of every token (memory 'salient'). */
  readonly idf: Float32Array | undefined
}

export async function readAdapters(folder: string): Promise<ReadAdapters> {
  const parameters = await readTensors(folder)
  const specialRows = parameters.get(SPECIAL_ROWS)?.data as Float32Array | undefined
  if (!specialRows) throw new ClaraError(`${join(folder, ADAPTERS_FILE)} lacks the parameter '${SPECIAL_ROWS}'.`)
  if (parameters.has(EMBEDDING) || parameters.has(HEAD)) {
    throw new ClaraError(`The model in ${folder} has an embedding of its own, which training cannot start from.`, {
      expected: 'the embedding of its base, but for the added tokens',
    })
  }
  const idf = parameters.get(IDF)?.data
  for (const name of [IDF, ...TABLES]) parameters.delete(name)
  return { parameters, specialRows, idf: idf instanceof Float32Array ? idf : undefined }
}

/** Rows and whole tables of adapters.safetensors, which go into the base's own. */
const TABLES = [SPECIAL_ROWS, SPECIAL_HEAD_ROWS, EMBEDDING, HEAD]

/** Puts the rows of CLaRa's tokens, as the adapters were trained with them, into the tables of the base. */
export function placeRows(
  base: Pick<BaseModel, 'config' | 'weights' | 'baseVocabulary'>,
  parameters: ReadonlyMap<string, HostTensor>,
): void {
  const place = (table: string, rows: string, firstRow: number) => {
    const target = base.weights.get(table)?.data as Float32Array | undefined
    const source = parameters.get(rows)?.data as Float32Array | undefined
    if (target && source) target.set(source, firstRow * base.config.hidden_size)
  }
  for (const table of [EMBEDDING, HEAD]) place(table, table, 0)
  place(EMBEDDING, SPECIAL_ROWS, base.baseVocabulary)
  place(HEAD, SPECIAL_HEAD_ROWS, base.baseVocabulary)
  // learned memory tokens come first among the added ones; with tied embeddings they are head rows too
  place(EMBEDDING, MEMORY_ROWS, base.baseVocabulary)
}

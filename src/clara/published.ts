/**
 * Checkpoints in the layout of the published code: a folder with `config.json`, `adapters.pth` and
 * `decoder_first_last_layers.pth`, and the base model in Hugging Face layout beside it.
 */
import { stat } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { z } from 'zod'
import { openPth, type PthFile } from '../checkpoint/pth.ts'
import { openWeights } from '../checkpoint/weights.ts'
import { ClaraError } from '../errors.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { findInCache } from '../hub/cache.ts'
import type { LoraSize, Role } from '../lora/adapters.ts'
import { type DecoderConfig, parseDecoderConfig } from '../model/config.ts'
import { toShared } from '../runtime/runtime.ts'
import { parseTokenizerJson } from '../tokenizer/definition.ts'
import { loadTokenizer } from '../tokenizer/load.ts'
import type { Tokenizer } from '../tokenizer/types.ts'
import { type BaseModel, loadBase } from './base.ts'
import { memoryLength } from './config.ts'
import { EMBEDDING, HEAD } from './network.ts'
import { claraTokens, type MemoryTokenOptions } from './prompts.ts'
import { isTensor, isTree, readAdapters, readShaped } from './published-adapters.ts'
import { type PublishedConfig, readConfigJson, readPublishedConfig } from './published-config.ts'

/** A published checkpoint without the weights of its base. */
export interface PublishedCheckpoint {
  readonly folder: string
  readonly config: PublishedConfig
  readonly baseFolder: string
  /** Shape of the base model. */
  readonly decoder: DecoderConfig
  readonly lora: LoraSize
  /** The base model's tokenizer with CLaRa's tokens. */
  readonly tokenizer: Tokenizer
  readonly memory: MemoryTokenOptions
  /** Whether the checkpoint has a query reasoner; else the one here is a copy of the encoder adapter. */
  readonly hasQueryReasoner: boolean
  /** By role, then by PEFT name (`model.layers.0.mlp.up_proj.lora_A.encoder_adapter.weight`); float32. */
  readonly adapters: ReadonlyMap<Role, ReadonlyMap<string, HostTensor>>
  /** [vocabulary, hidden_size], CLaRa's tokens included. */
  readonly embedding: HostTensor
  /** The output head, [vocabulary, hidden_size]; undefined where it is the embedding. */
  readonly head: HostTensor | undefined
  /** Rows of the embedding that belong to the memory tokens, and the id of the first. */
  readonly memoryRows: HostTensor
  readonly firstMemoryToken: number
}

export interface PublishedOptions {
  /**
   * Folder of the base model, or its name on the hub. Default: where `decoder_model_name` leads from the checkpoint's folder, a folder of
   * that name in it or beside it, or a model of that name in the Hugging Face cache.
   */
  readonly base?: string | undefined
}

/** Where a checkpoint's base lies, and its shape. */
export interface PublishedBase {
  readonly config: PublishedConfig
  readonly baseFolder: string
  readonly decoder: DecoderConfig
}

/** Finds the base of a checkpoint. */
export async function findPublishedBase(folder: string, options: PublishedOptions = {}): Promise<PublishedBase> {
  const config = await readPublishedConfig(folder)
  const baseFolder = await findBase(folder, config, options.base)
  return { config, baseFolder, decoder: await readDecoder(baseFolder) }
}

/** A published checkpoint without its tables, which are large. */
export type PublishedParts = Omit<PublishedCheckpoint, 'embedding' | 'head' | 'memoryRows'>

/**
 * Reads a published checkpoint. A checkpoint without query reasoner gets a copy of its encoder adapter as one.
 *
 * @throws ClaraError when a file is missing or damaged, the base model is not found or of an unknown family, or a tensor is
 *   missing, unknown, or of another shape than the configurations say.
 */
export async function readPublished(folder: string, options: PublishedOptions = {}): Promise<PublishedCheckpoint> {
  return withTables(await readPublishedParts(folder, options))
}

/** A checkpoint with its tables, which are read now. */
export async function withTables(parts: PublishedParts): Promise<PublishedCheckpoint> {
  const { folder, decoder, tokenizer, memory, firstMemoryToken } = parts
  await using adapterFile = await openPth(join(folder, 'adapters.pth'))
  await using tableFile = await openTables(folder)
  const table = (name: string) => readTable(name, decoder, tokenizer, tableFile, adapterFile)
  const embedding = await table(EMBEDDING)
  return {
    ...parts,
    embedding,
    head: decoder.tie_word_embeddings ? undefined : await table(HEAD),
    memoryRows: rowsOf(embedding, firstMemoryToken, memory.differentMemTokens ? memory.count : 1),
  }
}

/** All of {@link readPublished} but the tables. */
export async function readPublishedParts(folder: string, options: PublishedOptions = {}): Promise<PublishedParts> {
  const { config, baseFolder, decoder } = await findPublishedBase(folder, options)
  const lora: LoraSize = { rank: config.lora_r, alpha: 2 * config.lora_r }
  const memory: MemoryTokenOptions = { count: memoryLength(config), differentMemTokens: config.different_mem_tokens }
  if (memory.count < 1) {
    throw new ClaraError(`"${folder}" has no memory tokens.`, {
      expected: 'doc_max_length to be at least compr_rate',
      received: `${config.doc_max_length} and ${config.compr_rate}`,
    })
  }
  const added = claraTokens({ ...memory, kbtcTraining: config.kbtc_training })
  const tokenizer = (await loadTokenizer(baseFolder)).withAddedTokens(added)
  const firstMemoryToken = tokenizer.idOf(added[0] ?? '') ?? 0
  await checkTokens(folder, tokenizer, added, firstMemoryToken)
  await using adapterFile = await openPth(join(folder, 'adapters.pth'))
  return {
    folder,
    config,
    baseFolder,
    decoder,
    lora,
    tokenizer,
    memory,
    hasQueryReasoner: isTree(adapterFile.root.get('query_reasoner_adapter')),
    adapters: await readAdapters(adapterFile, decoder, lora),
    firstMemoryToken,
  }
}

/** The frozen base of a checkpoint, with the checkpoint's embedding and head in the place of its own. */
export async function loadPublishedBase(checkpoint: PublishedCheckpoint): Promise<BaseModel> {
  const { tokenizer, embedding, head } = checkpoint
  await using source = await openWeights(checkpoint.baseFolder)
  const sizes = { baseVocabulary: tokenizer.baseVocabularySize, vocabulary: tokenizer.vocabularySize }
  const base = await loadBase(source, sizes)
  const weights = new Map(base.weights).set(EMBEDDING, toShared(embedding))
  if (head) weights.set(HEAD, toShared(head))
  return { ...base, weights }
}

/** @throws ClaraError when the base is nowhere, naming the places that were looked at. */
export async function findBase(folder: string, config: PublishedConfig, given: string | undefined): Promise<string> {
  const name = given ?? config.decoder_model_name
  const last = basename(name)
  const places =
    given === undefined ? [resolve(folder, name), join(folder, last), resolve(folder, '..', last)] : [given]
  for (const path of places) if (await exists(join(path, 'config.json'))) return path
  const cached = await findInCache(name)
  if (cached !== undefined) return cached
  throw new ClaraError(`The base model of "${folder}" was not found.`, {
    expected: `the model '${name}' in Hugging Face layout`,
    received: `nothing at ${[...new Set(places)].map((path) => `"${path}"`).join(' or ')}, nor in the Hugging Face cache`,
    hint: 'Download it (clara pull) and give its folder as `base`.',
  })
}

const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  )

/**
 * CLaRa's tokens must follow those of the base, each with the id of its row. A tokenizer that came with the checkpoint, which the published
 * code does not read, must agree.
 */
async function checkTokens(
  folder: string,
  tokenizer: Tokenizer,
  added: readonly string[],
  first: number,
): Promise<void> {
  const misplaced = added.findIndex((token, index) => tokenizer.idOf(token) !== first + index)
  if (misplaced >= 0) {
    throw new ClaraError(`The base's tokenizer knows "${added[misplaced]}" already, out of order.`, {
      expected: `id ${first + misplaced}`,
      received: `${tokenizer.idOf(added[misplaced] ?? '')}`,
      hint: 'Use the tokenizer that the base model was published with.',
    })
  }
  const path = join(folder, 'tokenizer.json')
  if (!(await exists(path))) return
  const { added_tokens: known } = parseTokenizerJson(await readConfigJson(path, largestTokenizer), path)
  for (const [index, token] of added.entries()) {
    const id = known.find(({ content }) => content === token)?.id
    if (id === first + index) continue
    throw new ClaraError(`The tokenizer of the checkpoint "${folder}" lacks the memory tokens.`, {
      expected: `"${token}" to have the id ${first + index}`,
      received: id === undefined ? 'no such token' : `id ${id}`,
      hint: 'Do the tokenizer and config.json belong together? Without tokenizer.json, that of the base is used.',
    })
  }
}

const largestTokenizer = 128 << 20

async function readDecoder(baseFolder: string): Promise<DecoderConfig> {
  const path = join(baseFolder, 'config.json')
  const raw = z.record(z.string(), z.unknown()).safeParse(await readConfigJson(path))
  if (!raw.success) throw new ClaraError(`"${path}" is no JSON object.`)
  return parseDecoderConfig(raw.data)
}

/** Absent where the adapters' file carries the tables itself. */
async function openTables(folder: string): Promise<PthFile | undefined> {
  const path = join(folder, 'decoder_first_last_layers.pth')
  return (await exists(path)) ? openPth(path) : undefined
}

/** The embedding or the head: from its own file, else from the copy that the adapters' file may carry. */
async function readTable(
  name: string,
  decoder: DecoderConfig,
  tokenizer: Tokenizer,
  tables: PthFile | undefined,
  adapters: PthFile,
): Promise<HostTensor> {
  const dims = [tokenizer.vocabularySize, decoder.hidden_size]
  const decoderAdapter = adapters.root.get('decoder_adapter')
  const places = [
    { path: tables?.path, node: tables?.root.get(name) },
    { path: adapters.path, node: isTree(decoderAdapter) ? decoderAdapter.get(name) : undefined },
  ]
  for (const { path, node } of places) {
    if (path === undefined || !isTensor(node)) continue
    const [rows = 0] = node.dims
    if (rows !== dims[0] && (rows <= tokenizer.baseVocabularySize || rows === decoder.vocab_size)) {
      throw new ClaraError(`"${name}" of "${path}" has no rows for the memory tokens.`, {
        expected: `${dims[0]} rows: ${tokenizer.baseVocabularySize} of the base's tokenizer, then CLaRa's tokens`,
        received: `${rows}`,
        hint: 'The checkpoint was saved before its tokenizer had the memory tokens.',
      })
    }
    return readShaped(path, name, node, dims)
  }
  throw new ClaraError(`Neither decoder_first_last_layers.pth nor "${adapters.path}" holds "${name}".`, {
    expected: `a table of ${dims.join(' x ')}, CLaRa's tokens included`,
  })
}

function rowsOf({ data, dims }: HostTensor, first: number, count: number): HostTensor {
  const width = dims[1] ?? 0
  return { dtype: 'float32', dims: [count, width], data: data.slice(first * width, (first + count) * width) }
}

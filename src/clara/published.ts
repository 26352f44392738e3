/**
 * Checkpoints in the layout of the published code: a folder with `config.json`, `adapters.pth` and
 * `decoder_first_last_layers.pth`, and the base model in Hugging Face layout beside it.
 */
import { readFile, stat } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { z } from 'zod'
import { openPth, type PthFile, type PthNode, type PthTensor, type PthTree } from '../checkpoint/pth.ts'
import { openWeights } from '../checkpoint/weights.ts'
import { ClaraError } from '../errors.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { adapterShapes, type LoraSize, type Role, roles } from '../lora/adapters.ts'
import { type DecoderConfig, parseDecoderConfig } from '../model/config.ts'
import { toShared } from '../runtime/runtime.ts'
import { loadTokenizer } from '../tokenizer/load.ts'
import type { Tokenizer } from '../tokenizer/types.ts'
import { type BaseModel, loadBase } from './base.ts'
import { memoryLength } from './config.ts'
import { EMBEDDING, HEAD } from './network.ts'
import { claraTokens, type MemoryTokenOptions } from './prompts.ts'

/** What is read of a published config.json, by its own names. The file has many more keys, which say nothing to us. */
const publishedConfig = z.looseObject({
  compr_rate: z.number().int().positive(),
  doc_max_length: z.number().int().positive(),
  decoder_model_name: z.string().min(1),
  lora: z.literal(true, { error: 'only checkpoints with adapters (lora: true) are known' }).default(true),
  lora_r: z.number().int().positive().default(16),
  different_mem_tokens: z.boolean().default(false),
  kbtc_training: z.boolean().default(false),
  generation_top_k: z.number().int().positive().default(1),
  max_new_tokens: z.number().int().positive().default(128),
  training_stage: z.string().default('stage1'),
})

export type PublishedConfig = z.infer<typeof publishedConfig>

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
  /** Folder of the base model. Default: where `decoder_model_name` leads from the checkpoint's folder, or a folder of that name beside it. */
  readonly base?: string
}

/**
 * Reads a published checkpoint. A checkpoint without query reasoner gets a copy of its encoder adapter as one.
 *
 * @throws ClaraError when a file is missing or damaged, the base model is not found or of an unknown family, or a tensor is
 *   missing, unknown, or of another shape than the configurations say.
 */
export async function readPublished(folder: string, options: PublishedOptions = {}): Promise<PublishedCheckpoint> {
  const config = await readConfig(join(folder, 'config.json'))
  const baseFolder = await findBase(folder, config, options.base)
  const decoder = await readDecoder(baseFolder)
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

  await using adapterFile = await openPth(join(folder, 'adapters.pth'))
  await using tableFile = await openTables(folder)
  const adapters = await readAdapters(adapterFile, decoder, lora)
  const dims = [tokenizer.vocabularySize, decoder.hidden_size]
  const table = (name: string) => readTable(name, dims, tableFile, adapterFile)
  const embedding = await table(EMBEDDING)
  const firstMemoryToken = tokenizer.idOf(added[0] ?? '') ?? 0
  return {
    folder,
    config,
    baseFolder,
    decoder,
    lora,
    tokenizer,
    memory,
    adapters,
    embedding,
    head: decoder.tie_word_embeddings ? undefined : await table(HEAD),
    memoryRows: rowsOf(embedding, firstMemoryToken, memory.differentMemTokens ? memory.count : 1),
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

const largestConfig = 4 << 20

async function readConfig(path: string): Promise<PublishedConfig> {
  const parsed = publishedConfig.safeParse(await readJson(path))
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  throw new ClaraError(`"${path}" is no configuration of a CLaRa checkpoint.`, {
    received: `${issue?.path.join('.') || 'the file'}: ${issue?.message}`,
  })
}

async function readJson(path: string): Promise<unknown> {
  const facts = await stat(path).catch((cause: unknown) => {
    throw new ClaraError(`"${path}" does not exist.`, {
      expected: 'a folder with config.json, adapters.pth and decoder_first_last_layers.pth',
      cause,
    })
  })
  if (facts.size > largestConfig) {
    throw new ClaraError(`"${path}" is too large for a configuration.`, { received: `${facts.size} bytes` })
  }
  try {
    return JSON.parse(await readFile(path, 'utf8'))
  } catch (cause) {
    throw new ClaraError(`"${path}" is not JSON.`, { hint: 'Fetch it again.', cause })
  }
}

async function findBase(folder: string, config: PublishedConfig, given: string | undefined): Promise<string> {
  const name = config.decoder_model_name
  const places = given === undefined ? [resolve(folder, name), resolve(folder, '..', basename(name))] : [given]
  for (const path of places) if (await exists(join(path, 'config.json'))) return path
  throw new ClaraError(`The base model of "${folder}" was not found.`, {
    expected: `the model '${name}' in Hugging Face layout`,
    received: `nothing at ${places.map((path) => `"${path}"`).join(' or ')}`,
    hint: 'Download it and give its folder as `base`.',
  })
}

const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  )

async function readDecoder(baseFolder: string): Promise<DecoderConfig> {
  const path = join(baseFolder, 'config.json')
  const raw = z.record(z.string(), z.unknown()).safeParse(await readJson(path))
  if (!raw.success) throw new ClaraError(`"${path}" is no JSON object.`)
  return parseDecoderConfig(raw.data)
}

/** Absent where the adapters' file carries the tables itself. */
async function openTables(folder: string): Promise<PthFile | undefined> {
  const path = join(folder, 'decoder_first_last_layers.pth')
  return (await exists(path)) ? openPth(path) : undefined
}

async function readAdapters(
  file: PthFile,
  decoder: DecoderConfig,
  lora: LoraSize,
): Promise<ReadonlyMap<Role, ReadonlyMap<string, HostTensor>>> {
  const adapters = new Map<Role, ReadonlyMap<string, HostTensor>>()
  for (const role of roles) {
    const tree = file.root.get(role)
    if (isTree(tree)) adapters.set(role, await readAdapter(file.path, tree, decoder, lora, role))
    else if (role !== 'query_reasoner_adapter') {
      throw new ClaraError(`"${file.path}" has no ${role}.`, {
        received: [...file.root.keys()].join(', ') || 'nothing',
        hint: 'The file must hold the adapters of a CLaRa checkpoint.',
      })
    }
  }
  const encoder = adapters.get('encoder_adapter')
  if (encoder && !adapters.has('query_reasoner_adapter')) {
    const copies = [...encoder].map(([name, { dtype, dims, data }]): [string, HostTensor] => [
      name.replace('encoder_adapter', 'query_reasoner_adapter'),
      { dtype, dims, data: data.slice() },
    ])
    adapters.set('query_reasoner_adapter', new Map(copies))
  }
  return adapters
}

async function readAdapter(
  path: string,
  tree: PthTree,
  decoder: DecoderConfig,
  lora: LoraSize,
  role: Role,
): Promise<ReadonlyMap<string, HostTensor>> {
  const adapter = new Map<string, HostTensor>()
  const unread = new Set(tree.keys())
  for (const [name, dims] of adapterShapes(decoder, lora, role)) {
    // within its own dictionary the published code leaves the role out of the name
    const stored = [name.replace(`.${role}.`, '.'), name].find((candidate) => tree.has(candidate))
    const node = stored === undefined ? undefined : tree.get(stored)
    if (stored === undefined || !isTensor(node)) {
      throw new ClaraError(`The ${role} of "${path}" lacks "${name.replace(`.${role}.`, '.')}".`, {
        expected: `an adapter on every linear layer of ${decoder.num_hidden_layers} layers`,
        received: `${tree.size} tensors`,
      })
    }
    unread.delete(stored)
    adapter.set(name, await readShaped(path, `${role}/${stored}`, node, dims))
  }
  for (const table of [EMBEDDING, HEAD]) unread.delete(table)
  const [unknown] = unread
  if (unknown !== undefined) {
    throw new ClaraError(`The ${role} of "${path}" holds "${unknown}", which has no place in the model.`, {
      expected: `adapters on the linear layers of ${decoder.num_hidden_layers} layers`,
      hint: 'Does the base model belong to this checkpoint?',
    })
  }
  return adapter
}

/** The embedding or the head: from its own file, else from the copy that the adapters' file may carry. */
async function readTable(
  name: string,
  dims: readonly number[],
  tables: PthFile | undefined,
  adapters: PthFile,
): Promise<HostTensor> {
  const decoderAdapter = adapters.root.get('decoder_adapter')
  const places = [
    { path: tables?.path, node: tables?.root.get(name) },
    { path: adapters.path, node: isTree(decoderAdapter) ? decoderAdapter.get(name) : undefined },
  ]
  for (const { path, node } of places) {
    if (path !== undefined && isTensor(node)) return readShaped(path, name, node, dims)
  }
  throw new ClaraError(`Neither decoder_first_last_layers.pth nor "${adapters.path}" holds "${name}".`, {
    expected: `a table of ${dims.join(' x ')}, CLaRa's tokens included`,
  })
}

async function readShaped(path: string, name: string, tensor: PthTensor, dims: readonly number[]): Promise<HostTensor> {
  if (tensor.dims.join() !== dims.join()) {
    throw new ClaraError(`"${name}" of "${path}" has the wrong shape.`, {
      expected: `[${dims.join(', ')}], which the configurations and the tokenizer say`,
      received: `[${tensor.dims.join(', ')}]`,
    })
  }
  const value = await tensor.read()
  if (value.dtype === 'float32') return value
  throw new ClaraError(`"${name}" of "${path}" is not floating point.`, { received: tensor.storedType })
}

function rowsOf({ data, dims }: HostTensor, first: number, count: number): HostTensor {
  const width = dims[1] ?? 0
  return { dtype: 'float32', dims: [count, width], data: data.slice(first * width, (first + count) * width) }
}

const isTree = (node: PthNode | undefined): node is PthTree => node instanceof Map
const isTensor = (node: PthNode | undefined): node is PthTensor =>
  typeof node === 'object' && node !== null && 'read' in node

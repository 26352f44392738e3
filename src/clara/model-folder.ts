/** A model folder on disk: config.json and adapters.safetensors, and where its base and tokenizer lie. */
import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readFile } from 'node:fs/promises'
import { dirname, extname, join, relative, resolve } from 'node:path'
import { z } from 'zod'
import { writeFileAtomic } from '../checkpoint/atomic.ts'
import { openSafetensors, type SafetensorsWriteOptions, writeSafetensors } from '../checkpoint/safetensors.ts'
import { ClaraError } from '../errors.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { adapterShapes, type Role } from '../lora/adapters.ts'
import type { DecoderConfig } from '../model/config.ts'
import type { BaseModel } from './base.ts'
import { MEMORY_ROWS, QUERY_PROJECTION, REASONER_SALIENT, SALIENT } from './compressor.ts'
import { type ClaraConfig, claraConfig, loraSize } from './config.ts'
import { EMBEDDING, HEAD } from './network.ts'

/** Names in adapters.safetensors beside the learned parameters. */
export const IDF = 'salient.idf'
export const SPECIAL_ROWS = 'special_tokens.weight'
/** Where the head has a table of its own. */
export const SPECIAL_HEAD_ROWS = 'special_tokens.lm_head.weight'

const CONFIG_FILE = 'config.json'
export const ADAPTERS_FILE = 'adapters.safetensors'

/** config.json of a model folder. Paths are relative to the folder. */
const modelFile = z.strictObject({
  format: z.literal('clara-ts'),
  version: z.literal(1),
  /** The base model: a .gguf file or a Hugging Face folder. */
  base: z.string().min(1),
  /** Folder with the base's tokenizer.json. */
  tokenizer: z.string().min(1),
  /** Fingerprint of the base that the adapters were trained on. */
  base_fingerprint: z.string(),
  /** The training stage that the adapters have reached. */
  stage: z.string(),
  clara: claraConfig,
})

export type ModelFile = z.output<typeof modelFile>

/**
 * The config.json of a model folder.
 * @throws ClaraError when there is none, or it is not one.
 */
export async function readModelFile(folder: string): Promise<ModelFile> {
  const path = join(folder, CONFIG_FILE)
  if (!existsSync(path)) {
    throw new ClaraError(`There is no CLaRa model in ${folder}.`, { expected: `${CONFIG_FILE} and ${ADAPTERS_FILE}` })
  }
  let raw: unknown
  try {
    raw = JSON.parse(await readFile(path, 'utf8'))
  } catch (cause) {
    throw new ClaraError(`${path} is not JSON.`, { cause })
  }
  const parsed = modelFile.safeParse(raw)
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  throw new ClaraError(`${path} does not describe a CLaRa model: ${issue?.path.join('.')}: ${issue?.message}.`)
}

/** Where a model folder's base and the base's tokenizer lie. A base given by hand brings its tokenizer, where it has one. */
export function basePlaces(
  folder: string,
  file: Pick<ModelFile, 'base' | 'tokenizer'>,
  given?: string,
): { readonly base: string; readonly tokenizer: string } {
  const tokenizer = resolve(folder, file.tokenizer)
  if (given === undefined) return { base: resolve(folder, file.base), tokenizer }
  const beside = folderOf(given)
  return { base: given, tokenizer: existsSync(join(beside, 'tokenizer.json')) ? beside : tokenizer }
}

/** The folder of a base model, which may be a file. */
export const folderOf = (basePath: string): string =>
  ['.gguf', '.safetensors'].includes(extname(basePath)) ? dirname(basePath) : basePath

/** @throws ClaraError when the base at hand is not the one that the adapters were trained on. */
export function checkBaseFingerprint(folder: string, file: ModelFile, basePath: string, fingerprint: string): void {
  if (fingerprint === file.base_fingerprint) return
  throw new ClaraError(`The adapters in ${folder} belong to another base model.`, {
    expected: `the base with fingerprint ${file.base_fingerprint.slice(0, 16)}…`,
    received: `${fingerprint.slice(0, 16)}… (${basePath})`,
    hint: 'Use the base that the adapters were trained on.',
  })
}

/** Everything in a model folder's adapters.safetensors, in the order of the names. */
export async function readTensors(folder: string): Promise<Map<string, HostTensor>> {
  await using adapters = await openSafetensors(join(folder, ADAPTERS_FILE))
  const tensors = new Map<string, HostTensor>()
  for (const name of [...adapters.tensors.keys()].sort()) tensors.set(name, await adapters.read(name))
  return tensors
}

/** Changes with anything that changes a memory. `tensors` are all that a model folder holds. */
export function modelFingerprint(
  baseFingerprint: string,
  config: ClaraConfig,
  tensors: ReadonlyMap<string, HostTensor>,
): string {
  const hash = createHash('sha256').update(baseFingerprint).update(JSON.stringify(config))
  for (const [name, { data }] of [...tensors].sort(([a], [b]) => (a < b ? -1 : 1)))
    hash.update(name).update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
  return hash.digest('hex')
}

/** The sizes of a model that decide the shapes of its parameters. */
export interface ModelSizes {
  readonly decoder: DecoderConfig
  /** Tokens with CLaRa's own, and without. */
  readonly vocabulary: number
  readonly baseVocabulary: number
  readonly memoryTokens: number
}

/**
 * Names and shapes of all that adapters.safetensors must hold. The query reasoner is optional, and so are whole tables in the place of
 * the base's.
 */
function expectedParameters(
  { decoder, vocabulary, baseVocabulary, memoryTokens }: ModelSizes,
  config: ClaraConfig,
  given: ReadonlyMap<string, HostTensor>,
): Map<string, readonly number[]> {
  const { memory, compressorLayers } = config.compressor
  const size = loraSize(config)
  const hidden = decoder.hidden_size
  const encoderRoles: Role[] = ['encoder_adapter']
  if ([...given.keys()].some((name) => name.includes('.query_reasoner_adapter.')))
    encoderRoles.push('query_reasoner_adapter')
  const expected = new Map<string, readonly number[]>([
    ...encoderRoles.flatMap((role) => [...adapterShapes(decoder, size, role, compressorLayers)]),
    ...adapterShapes(decoder, size, 'decoder_adapter'),
    [SPECIAL_ROWS, [vocabulary - baseVocabulary, hidden]],
  ])
  if (given.has(EMBEDDING)) expected.set(EMBEDDING, [vocabulary, hidden])
  if (!decoder.tie_word_embeddings) {
    expected.set(SPECIAL_HEAD_ROWS, [vocabulary - baseVocabulary, hidden])
    if (given.has(HEAD)) expected.set(HEAD, [vocabulary, hidden])
  }
  if (memory === 'tokens') expected.set(MEMORY_ROWS, [memoryTokens, hidden])
  if (given.has(QUERY_PROJECTION)) expected.set(QUERY_PROJECTION, [hidden, hidden])
  if (memory === 'salient') {
    expected.set(IDF, [vocabulary])
    const own = Object.values(REASONER_SALIENT).some((name) => given.has(name))
    for (const { alpha, beta, weight } of own ? [SALIENT, REASONER_SALIENT] : [SALIENT]) {
      expected.set(alpha, [1]).set(beta, [1]).set(weight, [hidden, 1])
    }
  }
  return expected
}

/** @throws ClaraError when a parameter is missing, has another shape than the sizes say, or has no use. */
export function checkParameters(
  folder: string,
  sizes: ModelSizes,
  config: ClaraConfig,
  given: ReadonlyMap<string, HostTensor>,
): void {
  const path = join(folder, ADAPTERS_FILE)
  const expected = expectedParameters(sizes, config, given)
  for (const [name, dims] of expected) {
    const value = given.get(name)
    if (!value) {
      throw new ClaraError(`${path} lacks the parameter '${name}'.`, {
        hint: 'Write the model folder again from its training run: clara pack.',
      })
    }
    if (value.dims.join() !== dims.join()) {
      throw new ClaraError(`The parameter '${name}' of ${path} has the wrong shape.`, {
        expected: `[${dims.join(', ')}], which ${CONFIG_FILE} and the base model ask for`,
        received: `[${value.dims.join(', ')}]`,
      })
    }
  }
  const unknown = [...given.keys()].find((name) => !expected.has(name))
  if (unknown !== undefined) {
    throw new ClaraError(`${path} has a parameter '${unknown}', for which the model has no use.`, {
      hint: `Do ${CONFIG_FILE} and ${ADAPTERS_FILE} belong together?`,
    })
  }
}

/** Where a model folder's files come from. */
export interface SaveModelOptions {
  readonly folder: string
  readonly basePath: string
  readonly tokenizerFolder?: string | undefined
  /** Of the weights, the tables alone are looked at: the rows of the added tokens go into the folder. */
  readonly base: Pick<BaseModel, 'config' | 'weights' | 'vocabulary' | 'baseVocabulary' | 'fingerprint'>
  readonly config: ClaraConfig
  readonly stage: string
  readonly parameters: ReadonlyMap<string, HostTensor>
  readonly idf?: Float32Array | undefined
  /** How numbers are stored. Default: float16. */
  readonly float?: SafetensorsWriteOptions['float']
}

/** Writes a model folder: adapters and the configuration, each file whole or not at all. */
export async function saveModel(options: SaveModelOptions): Promise<void> {
  const { folder, base, config, stage, float = 'float16' } = options
  await mkdir(folder, { recursive: true })
  const width = base.config.hidden_size
  const added = base.vocabulary - base.baseVocabulary
  const addedRows = (table: string): HostTensor => {
    const data = base.weights.get(table)?.data as Float32Array
    return { dtype: 'float32', dims: [added, width], data: data.slice(data.length - added * width) }
  }
  const tensors = new Map(options.parameters).set(SPECIAL_ROWS, addedRows(EMBEDDING))
  if (!base.config.tie_word_embeddings) tensors.set(SPECIAL_HEAD_ROWS, addedRows(HEAD))
  if (options.idf) tensors.set(IDF, { dtype: 'float32', dims: [options.idf.length], data: options.idf })
  await writeSafetensors(join(folder, ADAPTERS_FILE), tensors, { format: 'clara-ts' }, { float })
  const file: z.input<typeof modelFile> = {
    format: 'clara-ts',
    version: 1,
    base: relative(folder, options.basePath) || '.',
    tokenizer: relative(folder, options.tokenizerFolder ?? folderOf(options.basePath)) || '.',
    base_fingerprint: base.fingerprint,
    stage,
    clara: config,
  }
  await writeFileAtomic(join(folder, CONFIG_FILE), `${JSON.stringify(file, undefined, 2)}\n`)
}

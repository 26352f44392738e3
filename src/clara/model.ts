import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readFile } from 'node:fs/promises'
import { dirname, extname, join, relative, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { z } from 'zod'
import { writeFileAtomic } from '../checkpoint/atomic.ts'
import { openSafetensors, writeSafetensors } from '../checkpoint/safetensors.ts'
import { openWeights } from '../checkpoint/weights.ts'
import { ClaraError } from '../errors.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { adapterShapes, type Role } from '../lora/adapters.ts'
import { loadTokenizer } from '../tokenizer/load.ts'
import type { Tokenizer } from '../tokenizer/types.ts'
import { type BaseModel, loadBase } from './base.ts'
import { MEMORY_ROWS, SALIENT } from './compressor.ts'
import { type ClaraConfig, claraConfig, loraSize, memoryLength } from './config.ts'
import { EMBEDDING, HEAD } from './network.ts'
import { claraTokens } from './prompts.ts'

/** Names in adapters.safetensors beside the learned parameters. */
const IDF = 'salient.idf'
const SPECIAL_ROWS = 'special_tokens.weight'
/** Where the head has a table of its own. */
const SPECIAL_HEAD_ROWS = 'special_tokens.lm_head.weight'

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
  readonly stage: string
  /** Changes with anything that changes a memory. */
  readonly fingerprint: string
}

/** Default folder of the model that comes with the package. */
export const embeddedModel = (): string => fileURLToPath(new URL('../../models/clara-smollm2-135m', import.meta.url))

/**
 * Loads a model folder (config.json + adapters.safetensors).
 * @throws ClaraError when a file is missing, damaged, or belongs to another base.
 */
export async function loadModel(folder: string): Promise<ClaraModel> {
  const path = join(folder, CONFIG_FILE)
  if (!existsSync(path)) {
    throw new ClaraError(`There is no CLaRa model in ${folder}.`, { expected: `${CONFIG_FILE} and ${ADAPTERS_FILE}` })
  }
  const file = parseModelFile(path, await readFile(path, 'utf8'))
  const { clara: config } = file
  const baseTokenizer = await loadTokenizer(resolve(folder, file.tokenizer))
  const count = memoryLength(config)
  const tokenizer = baseTokenizer.withAddedTokens(
    claraTokens({ count, differentMemTokens: config.different_mem_tokens }),
  )
  await using source = await openWeights(resolve(folder, file.base))
  const base = await loadBase(source, {
    baseVocabulary: baseTokenizer.vocabularySize,
    vocabulary: tokenizer.vocabularySize,
  })
  if (base.fingerprint !== file.base_fingerprint) {
    throw new ClaraError(`The adapters in ${folder} belong to another base model.`, {
      expected: `the base with fingerprint ${file.base_fingerprint.slice(0, 16)}…`,
      received: `${base.fingerprint.slice(0, 16)}… (${file.base})`,
      hint: 'Use the base that the adapters were trained on.',
    })
  }
  const memoryTokens = config.different_mem_tokens ? count : 1
  const parameters = await readTensors(folder)
  const hash = createHash('sha256').update(base.fingerprint).update(JSON.stringify(config))
  for (const [name, { data }] of parameters) {
    hash.update(name).update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
  }
  checkParameters(parameters, expectedParameters(base, config, memoryTokens, parameters), join(folder, ADAPTERS_FILE))
  const idf = parameters.get(IDF)?.data as Float32Array | undefined
  useSpecialRows(base, parameters)
  for (const name of [IDF, SPECIAL_ROWS, SPECIAL_HEAD_ROWS]) parameters.delete(name)
  return {
    base,
    tokenizer,
    firstMemoryToken: baseTokenizer.vocabularySize,
    memoryTokens,
    config,
    parameters,
    idf,
    stage: file.stage,
    fingerprint: hash.digest('hex'),
  }
}

/** Everything in a model folder's adapters.safetensors, in the order of the names. */
async function readTensors(folder: string): Promise<Map<string, HostTensor>> {
  await using adapters = await openSafetensors(join(folder, ADAPTERS_FILE))
  const tensors = new Map<string, HostTensor>()
  for (const name of [...adapters.tensors.keys()].sort()) tensors.set(name, await adapters.read(name))
  return tensors
}

/** The learned parameters of a model folder, and the embeddings of the added tokens that they were trained beside. */
export async function readAdapters(
  folder: string,
): Promise<{ readonly parameters: ReadonlyMap<string, HostTensor>; readonly specialRows: Float32Array }> {
  const parameters = await readTensors(folder)
  const specialRows = parameters.get(SPECIAL_ROWS)?.data as Float32Array | undefined
  if (!specialRows) throw new ClaraError(`${join(folder, ADAPTERS_FILE)} lacks the parameter '${SPECIAL_ROWS}'.`)
  for (const name of [IDF, SPECIAL_ROWS, SPECIAL_HEAD_ROWS]) parameters.delete(name)
  return { parameters, specialRows }
}

function parseModelFile(path: string, text: string): z.output<typeof modelFile> {
  let raw: unknown
  try {
    raw = JSON.parse(text)
  } catch (cause) {
    throw new ClaraError(`${path} is not JSON.`, { cause })
  }
  const parsed = modelFile.safeParse(raw)
  if (parsed.success) return parsed.data
  const [issue] = parsed.error.issues
  throw new ClaraError(`${path} does not describe a CLaRa model: ${issue?.path.join('.')}: ${issue?.message}.`)
}

/** Names and shapes of all that adapters.safetensors must hold. */
function expectedParameters(
  base: BaseModel,
  config: ClaraConfig,
  memoryTokens: number,
  given: ReadonlyMap<string, HostTensor>,
): Map<string, readonly number[]> {
  const { memory, compressorLayers } = config.compressor
  const size = loraSize(config)
  const hidden = base.config.hidden_size
  const encoderRoles: Role[] = ['encoder_adapter']
  if ([...given.keys()].some((name) => name.includes('.query_reasoner_adapter.')))
    encoderRoles.push('query_reasoner_adapter')
  const expected = new Map<string, readonly number[]>([
    ...encoderRoles.flatMap((role) => [...adapterShapes(base.config, size, role, compressorLayers)]),
    ...adapterShapes(base.config, size, 'decoder_adapter'),
    [SPECIAL_ROWS, [base.vocabulary - base.baseVocabulary, hidden]],
  ])
  if (!base.config.tie_word_embeddings) expected.set(SPECIAL_HEAD_ROWS, [base.vocabulary - base.baseVocabulary, hidden])
  if (memory === 'tokens') expected.set(MEMORY_ROWS, [memoryTokens, hidden])
  if (memory === 'salient') {
    expected.set(SALIENT.alpha, [1]).set(SALIENT.beta, [1]).set(SALIENT.weight, [hidden, 1]).set(IDF, [base.vocabulary])
  }
  return expected
}

function checkParameters(
  given: ReadonlyMap<string, HostTensor>,
  expected: ReadonlyMap<string, readonly number[]>,
  path: string,
): void {
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

/** The embedding and head rows of CLaRa's tokens, as the adapters were trained with them. */
function useSpecialRows(base: BaseModel, parameters: ReadonlyMap<string, HostTensor>): void {
  const place = (table: string, rows: string, firstRow: number) => {
    const target = base.weights.get(table)?.data as Float32Array | undefined
    const source = parameters.get(rows)?.data as Float32Array | undefined
    if (target && source) target.set(source, firstRow * base.config.hidden_size)
  }
  place(EMBEDDING, SPECIAL_ROWS, base.baseVocabulary)
  place(HEAD, SPECIAL_HEAD_ROWS, base.baseVocabulary)
  // learned memory tokens come first among the added ones; with tied embeddings they are head rows too
  place(EMBEDDING, MEMORY_ROWS, base.baseVocabulary)
}

/** Where a model folder's files come from. */
export interface SaveModelOptions {
  readonly folder: string
  readonly basePath: string
  readonly tokenizerFolder?: string | undefined
  readonly base: BaseModel
  readonly config: ClaraConfig
  readonly stage: string
  readonly parameters: ReadonlyMap<string, HostTensor>
  readonly idf?: Float32Array | undefined
}

/** Writes a model folder: float16 adapters and the configuration, each file whole or not at all. */
export async function saveModel(options: SaveModelOptions): Promise<void> {
  const { folder, base, config, stage } = options
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
  await writeSafetensors(join(folder, ADAPTERS_FILE), tensors, { format: 'clara-ts' }, { float: 'float16' })
  const tokenizerFolder =
    options.tokenizerFolder ?? (extname(options.basePath) === '' ? options.basePath : dirname(options.basePath))
  const file: z.input<typeof modelFile> = {
    format: 'clara-ts',
    version: 1,
    base: relative(folder, options.basePath),
    tokenizer: relative(folder, tokenizerFolder) || '.',
    base_fingerprint: base.fingerprint,
    stage,
    clara: config,
  }
  await writeFileAtomic(join(folder, CONFIG_FILE), `${JSON.stringify(file, undefined, 2)}\n`)
}

import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdir, readFile } from 'node:fs/promises'
import { dirname, extname, join, relative, resolve } from 'node:path'
import { z } from 'zod'
import { writeFileAtomic } from '../checkpoint/atomic.ts'
import { openSafetensors, writeSafetensors } from '../checkpoint/safetensors.ts'
import { openWeights } from '../checkpoint/weights.ts'
import { ClaraError } from '../errors.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { loadTokenizer } from '../tokenizer/load.ts'
import type { Tokenizer } from '../tokenizer/types.ts'
import { type BaseModel, loadBase } from './base.ts'
import { claraConfig, type ClaraConfig, memoryLength } from './config.ts'
import { EMBEDDING } from './network.ts'
import { claraTokens } from './prompts.ts'

/** Names in adapters.safetensors beside the learned parameters. */
export const IDF = 'salient.idf'
const SPECIAL_ROWS = 'special_tokens.weight'

const CONFIG_FILE = 'config.json'
const ADAPTERS_FILE = 'adapters.safetensors'

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
export const embeddedModel = (): string => new URL('../../models/clara-smollm2-135m', import.meta.url).pathname

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
  const tokenizer = baseTokenizer.withAddedTokens(claraTokens({ count, differentMemTokens: config.different_mem_tokens }))
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
  const parameters = new Map<string, HostTensor>()
  const hash = createHash('sha256').update(base.fingerprint).update(JSON.stringify(config))
  await using adapters = await openSafetensors(join(folder, ADAPTERS_FILE))
  for (const name of [...adapters.tensors.keys()].sort()) {
    const value = await adapters.read(name)
    hash.update(name).update(new Uint8Array(value.data.buffer, value.data.byteOffset, value.data.byteLength))
    parameters.set(name, value)
  }
  const idf = parameters.get(IDF)?.data as Float32Array | undefined
  useSpecialRows(base, parameters.get(SPECIAL_ROWS), folder)
  parameters.delete(IDF)
  parameters.delete(SPECIAL_ROWS)
  return {
    base,
    tokenizer,
    firstMemoryToken: baseTokenizer.vocabularySize,
    memoryTokens: config.different_mem_tokens ? count : 1,
    config,
    parameters,
    idf,
    stage: file.stage,
    fingerprint: hash.digest('hex'),
  }
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

/** The embeddings of CLaRa's tokens, as the adapters were trained with them. */
function useSpecialRows(base: BaseModel, rows: HostTensor | undefined, folder: string): void {
  const table = base.weights.get(EMBEDDING)
  const width = base.config.hidden_size
  if (!rows || !table || rows.dims[1] !== width) {
    throw new ClaraError(`${join(folder, ADAPTERS_FILE)} lacks the embeddings of the added tokens (${SPECIAL_ROWS}).`)
  }
  const data = table.data as Float32Array
  data.set(rows.data as Float32Array, data.length - rows.data.length)
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
  const embedding = base.weights.get(EMBEDDING)?.data as Float32Array
  const added = base.vocabulary - base.baseVocabulary
  const tensors = new Map(options.parameters)
  tensors.set(SPECIAL_ROWS, { dtype: 'float32', dims: [added, width], data: embedding.slice(embedding.length - added * width) })
  if (options.idf) tensors.set(IDF, { dtype: 'float32', dims: [options.idf.length], data: options.idf })
  await writeSafetensors(join(folder, ADAPTERS_FILE), tensors, { format: 'clara-ts' }, { float: 'float16' })
  const tokenizerFolder = options.tokenizerFolder ?? (extname(options.basePath) === '' ? options.basePath : dirname(options.basePath))
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

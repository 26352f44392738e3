/** From the published layout to a model folder and back. The base's weights are not loaded; its file is read once for the fingerprint. */
import { existsSync } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import { extname, join, resolve } from 'node:path'
import { narrowToBfloat16, widenBfloat16 } from '../checkpoint/half.ts'
import { type PthContent, writePth } from '../checkpoint/pth-write.ts'
import { openWeights, type WeightSource } from '../checkpoint/weights.ts'
import { ClaraError } from '../errors.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { adapterShapes, type Role } from '../lora/adapters.ts'
import { parseDecoderConfig } from '../model/config.ts'
import { loadTokenizer } from '../tokenizer/load.ts'
import type { Tokenizer } from '../tokenizer/types.ts'
import type { BaseModel } from './base.ts'
import { type ClaraConfig, loraSize, memoryLength } from './config.ts'
import { writeHuggingFaceBase, writeJson } from './hugging-face-base.ts'
import { addedTokens, placeRows } from './model.ts'
import {
  basePlaces,
  checkBaseFingerprint,
  checkParameters,
  modelFingerprint,
  readModelFile,
  readTensors,
  SPECIAL_HEAD_ROWS,
  SPECIAL_ROWS,
  saveModel,
} from './model-folder.ts'
import { EMBEDDING, HEAD } from './network.ts'
import { checkpointTensors } from './open.ts'
import { readPublished } from './published.ts'
import { layoutOf, publishedConfigOf, settingsOf, settingsWithoutPlace } from './published-config.ts'
import { stopTokens } from './stop-tokens.ts'

export interface ConvertOptions {
  readonly input: string
  readonly output: string
  /** Folder of the base model. Default: the one that the input's configuration names. */
  readonly base?: string | undefined
  /** What is being done, for progress. */
  readonly onProgress?: (doing: string) => void
}

export interface PublishOptions extends ConvertOptions {
  /** How the adapters are stored; the tables keep every number. Default: float32. */
  readonly float?: 'float32' | 'bfloat16'
  /** What `decoder_model_name` shall say. Default: where the base lies, as an absolute path; in a Hugging Face cache, its name there. */
  readonly baseName?: string | undefined
}

export interface Converted {
  readonly output: string
  /** The base that the output names, as it names it. */
  readonly base: string
  readonly stage: string
  /** Of the model; the same on both sides, unless numbers were rounded. */
  readonly fingerprint: string
}

/**
 * Writes a published checkpoint as a model folder, every number kept.
 * @throws ClaraError when the input cannot be read or the output folder holds something else.
 */
export async function convertToModel(options: ConvertOptions): Promise<Converted> {
  const { input, output, base } = options
  await checkPlaces(options, 'published', 'clara')
  options.onProgress?.('reading the checkpoint')
  const checkpoint = await readPublished(input, { base })
  const { decoder, tokenizer, embedding, head, baseFolder, firstMemoryToken } = checkpoint
  if (firstMemoryToken !== tokenizer.baseVocabularySize) {
    throw new ClaraError(`The tokenizer of "${baseFolder}" has the memory tokens already.`, {
      hint: 'Use the tokenizer that the base model was published with.',
    })
  }
  const tensors = await checkpointTensors(checkpoint)
  await using source = await openWeights(baseFolder)
  options.onProgress?.('reading the base')
  const fingerprint = await source.fingerprint()
  const config = settingsOf(checkpoint.config)
  const stage = checkpoint.config.training_stage
  const parameters = new Map(tensors)
  for (const name of [SPECIAL_ROWS, SPECIAL_HEAD_ROWS]) parameters.delete(name)
  await withoutConfig(output)
  await saveModel({
    folder: output,
    basePath: baseFolder,
    base: {
      config: decoder,
      weights: new Map([[EMBEDDING, embedding], ...(head ? [[HEAD, head] as const] : [])]),
      vocabulary: tokenizer.vocabularySize,
      baseVocabulary: tokenizer.baseVocabularySize,
      fingerprint,
    },
    config,
    stage,
    parameters,
    float: [...tensors.values()].every(isBfloat16) ? 'bfloat16' : 'float32',
  })
  return { output, base: baseFolder, stage, fingerprint: modelFingerprint(fingerprint, config, tensors) }
}

/**
 * Writes a model folder in the published layout, so that the published `CLaRa.from_pretrained` loads it; a base that is no Hugging Face
 * folder becomes one, `base/` in the output.
 * @throws ClaraError when a setting has no place in that layout, the input cannot be read, or the output folder holds something else.
 */
export async function convertToPublished(options: PublishOptions): Promise<Converted> {
  const { input, output, float = 'float32' } = options
  await checkPlaces(options, 'clara', 'published')
  const file = await readModelFile(input)
  const { clara: config, stage } = file
  const without = settingsWithoutPlace(config)
  if (without.length > 0) {
    throw new ClaraError(`The model ${input} cannot be written in the published layout.`, {
      expected: 'settings that its code knows',
      received: without.join('; '),
    })
  }
  const places = basePlaces(input, file, options.base)
  const baseTokenizer = await loadTokenizer(places.tokenizer)
  const tokenizer = baseTokenizer.withAddedTokens(addedTokens(config))
  await using source = await openWeights(places.base)
  options.onProgress?.('reading the base')
  checkBaseFingerprint(input, file, places.base, await source.fingerprint())
  const tensors = await readTensors(input)
  const base = await tablesOf(source, baseTokenizer, tokenizer)
  const { vocabulary, baseVocabulary } = base
  const memoryTokens = config.different_mem_tokens ? memoryLength(config) : 1
  checkParameters(input, { decoder: base.config, vocabulary, baseVocabulary, memoryTokens }, config, tensors)
  placeRows(base, tensors)

  await mkdir(output, { recursive: true })
  await withoutConfig(output)
  const isFolder = extname(places.base) !== '.gguf' && existsSync(join(places.base, 'config.json'))
  const complete = isFolder && resolve(places.tokenizer) === resolve(places.base)
  const baseFolder = complete ? resolve(places.base) : resolve(output, 'base')
  if (!complete) {
    await writeHuggingFaceBase({
      source,
      tokenizer: baseTokenizer,
      stopIds: await stopTokens(places.base, baseTokenizer),
      tokenizerFolder: places.tokenizer,
      folder: baseFolder,
      onParameter: (name) => options.onProgress?.(`writing the base: ${name}`),
    })
  }
  options.onProgress?.('writing the adapters')
  const baseName = options.baseName ?? hubNameOf(baseFolder) ?? baseFolder
  const rounded = float === 'float32' ? tensors : new Map([...tensors].map(roundedAdapter))
  await writePth(join(output, 'adapters.pth'), adaptersOf(base, config, rounded), { float })
  const exact = [...base.weights.values()].every(isBfloat16)
  await writePth(join(output, 'decoder_first_last_layers.pth'), base.weights, {
    float: exact ? float : 'float32',
    parameters: () => false,
  })
  await writeJson(join(output, 'config.json'), publishedConfigOf(config, stage, baseName))
  return { output, base: baseName, stage, fingerprint: modelFingerprint(file.base_fingerprint, config, rounded) }
}

/** @throws ClaraError when the input has not the layout `from`, or the output holds another model. */
async function checkPlaces({ input, output }: ConvertOptions, from: 'clara' | 'published', to: 'clara' | 'published') {
  const names = { clara: 'a model folder', published: 'a checkpoint in the published layout', base: 'a base model' }
  const found = await layoutOf(input)
  if (found !== from) {
    throw new ClaraError(`"${input}" cannot be converted to ${names[to]}.`, {
      expected: `${names[from]}`,
      received: found ? names[found] : 'no config.json',
      hint: found === to ? 'It has that layout already.' : '`clara inspect` tells what a folder holds.',
    })
  }
  const there = await layoutOf(output)
  if (there !== undefined && there !== to) {
    throw new ClaraError(`"${output}" holds ${names[there]}, which would be lost.`, { hint: 'Name another folder.' })
  }
}

/** The configuration is written last, so that an unfinished folder is no model. */
const withoutConfig = (folder: string): Promise<void> => rm(join(folder, 'config.json'), { force: true })

type Tables = Pick<BaseModel, 'config' | 'weights' | 'vocabulary' | 'baseVocabulary'>

/** The tables of a base, resized for CLaRa's tokens, whose rows are zero until `placeRows` fills them. */
async function tablesOf(source: WeightSource, baseTokenizer: Tokenizer, tokenizer: Tokenizer): Promise<Tables> {
  const config = parseDecoderConfig(source.config)
  const [vocabulary, baseVocabulary] = [tokenizer.vocabularySize, baseTokenizer.vocabularySize]
  const weights = new Map<string, HostTensor>()
  for (const name of config.tie_word_embeddings ? [EMBEDDING] : [EMBEDDING, HEAD]) {
    const table = await source.read(name)
    const width = config.hidden_size
    if ((table.dims[0] ?? 0) < baseVocabulary || table.dims[1] !== width) {
      throw new ClaraError(`The tokenizer does not belong to ${source.path}.`, {
        expected: `at least ${baseVocabulary} rows of ${width} in "${name}"`,
        received: `[${table.dims.join(', ')}]`,
      })
    }
    const data = new Float32Array(vocabulary * width)
    data.set((table.data as Float32Array).subarray(0, baseVocabulary * width))
    weights.set(name, { dtype: 'float32', dims: [vocabulary, width], data })
  }
  return { config, weights, vocabulary, baseVocabulary }
}

/** Adapters by role in the order of the published code, the role left out of the parameters' names. */
function adaptersOf(base: Tables, config: ClaraConfig, tensors: ReadonlyMap<string, HostTensor>): PthContent {
  const order: readonly Role[] = ['decoder_adapter', 'encoder_adapter', 'query_reasoner_adapter']
  return new Map(
    order.flatMap((role) => {
      const adapter = new Map<string, HostTensor>()
      for (const name of adapterShapes(base.config, loraSize(config), role).keys()) {
        const tensor = tensors.get(name)
        if (tensor) adapter.set(name.replace(`.${role}.`, '.'), tensor)
      }
      return adapter.size > 0 ? [[role, adapter] as const] : []
    }),
  )
}

/** An adapter's factor as the published loader rounds it on a base in bfloat16; anything else as it is. */
function roundedAdapter([name, tensor]: readonly [string, HostTensor]): readonly [string, HostTensor] {
  if (!name.includes('.lora_')) return [name, tensor]
  return [name, { ...tensor, data: widenBfloat16(narrowToBfloat16(tensor.data as Float32Array)) }]
}

/** `ORG/NAME` of a folder inside a Hugging Face cache, which every machine can look up. */
function hubNameOf(folder: string): string | undefined {
  const [, organisation, name] = /[\\/]models--([^\\/]+?)--([^\\/]+)[\\/]snapshots[\\/][0-9a-f]{40}$/.exec(folder) ?? []
  return organisation === undefined ? undefined : `${organisation}/${name}`
}

const bits = (data: Float32Array): Uint32Array => new Uint32Array(data.buffer, data.byteOffset, data.length)

/** Whether rounding to bfloat16 changes nothing. */
const isBfloat16 = ({ data }: HostTensor): boolean =>
  data instanceof Float32Array && bits(data).every((value) => (value & 0xffff) === 0)

/** What is in a model file or folder, told without loading it. */
import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { type FileListing, type ListedTensor, listTensors } from '../checkpoint/listing.ts'
import { openWeights } from '../checkpoint/weights.ts'
import { ClaraError } from '../errors.ts'
import { elementCount } from '../graph/dtype.ts'
import { roles } from '../lora/adapters.ts'
import { type DecoderConfig, parseDecoderConfig } from '../model/config.ts'
import { memoryLength } from './config.ts'
import { ADAPTERS_FILE, basePlaces, modelFingerprint, readModelFile, readTensors } from './model-folder.ts'
import { checkpointTensors } from './open.ts'
import { findBase, readPublished } from './published.ts'
import { layoutOf, readConfigJson, readPublishedConfig, settingsOf } from './published-config.ts'

/** One adapter of a checkpoint. */
export interface InspectedAdapter {
  readonly role: string
  readonly rank: number
  /** Layers that carry it. */
  readonly layers: number
  readonly parameters: number
  readonly dtypes: readonly string[]
}

/** A model by its files. What does not apply is left out. */
export interface Inspection {
  readonly path: string
  readonly kind: 'weights' | 'base model' | 'model' | 'published checkpoint'
  /** Files of weights in it. */
  readonly files: readonly InspectedFile[]
  /** Numbers in these files. */
  readonly parameters: number
  readonly bytes: number
  /** Shape of the decoder: of the model itself, or of its base. */
  readonly architecture?: DecoderConfig
  /** Why there is no architecture, where there should be one. */
  readonly architectureProblem?: string
  readonly stage?: string
  /** The settings of the compressor, by the names of config.json. */
  readonly settings?: Readonly<Record<string, unknown>>
  /** Memory tokens of a document of full length. */
  readonly memoryTokens?: number
  readonly adapters?: readonly InspectedAdapter[]
  /** The base as the configuration names it, and where it lies, if it was found. */
  readonly base?: { readonly name: string; readonly path?: string }
  readonly baseFingerprint?: string
  readonly fingerprint?: string
}

export interface InspectedFile {
  /** Relative to the inspected folder. */
  readonly file: string
  readonly format: FileListing['format']
  readonly bytes: number
  readonly tensors: readonly ListedTensor[]
  /** Short entries of the file's own metadata. */
  readonly metadata: Readonly<Record<string, string | number | boolean>>
}

export interface InspectOptions {
  /** Folder of the base of a checkpoint. Default: where its configuration says. */
  readonly base?: string | undefined
  /** Whether to compute fingerprints that need all bytes of the weights. Default: where those are less than a gibibyte. */
  readonly fingerprint?: boolean | undefined
}

const quicklyRead = 1 << 30

/**
 * Looks into a GGUF, safetensors or PyTorch file, a Hugging Face folder, a model folder, or a published checkpoint.
 * @throws ClaraError when it is none of these, or a file is damaged.
 */
export async function inspectModel(path: string, options: InspectOptions = {}): Promise<Inspection> {
  const facts = await stat(path).catch((cause: unknown) => {
    throw new ClaraError(`"${path}" does not exist.`, { hint: 'Check the path.', cause })
  })
  if (!facts.isDirectory()) return inspectFile(path, options)
  const layout = await layoutOf(path)
  if (layout === 'clara') return inspectFolder(path, options)
  if (layout === 'published') return inspectPublished(path, options)
  if (layout === 'base') return inspectBase(path, options)
  throw new ClaraError(`"${path}" holds no model.`, {
    expected: 'a config.json of a model, or a file of weights',
    received: (await readdir(path)).slice(0, 8).join(', ') || 'an empty folder',
  })
}

async function inspectFile(path: string, options: InspectOptions): Promise<Inspection> {
  const file = await listFile(path, path)
  const summary = summarise(path, 'weights', [file])
  const adapters = adaptersIn(file.tensors)
  if (adapters.length > 0) return { ...summary, adapters }
  return file.format === 'GGUF' ? { ...summary, ...(await weightsOf(path, summary.bytes, options)) } : summary
}

async function inspectBase(path: string, options: InspectOptions): Promise<Inspection> {
  const summary = summarise(path, 'base model', await weightFiles(path))
  return { ...summary, ...(await weightsOf(path, summary.bytes, options)) }
}

async function inspectFolder(path: string, options: InspectOptions): Promise<Inspection> {
  const file = await readModelFile(path)
  const listed = await listFile(join(path, ADAPTERS_FILE), ADAPTERS_FILE)
  const base = basePlaces(path, file, options.base).base
  return {
    ...summarise(path, 'model', [listed]),
    ...(await architectureOf(base)),
    stage: file.stage,
    settings: file.clara,
    memoryTokens: memoryLength(file.clara),
    adapters: adaptersIn(listed.tensors),
    base: { name: file.base, ...((await exists(base)) ? { path: base } : {}) },
    baseFingerprint: file.base_fingerprint,
    fingerprint: modelFingerprint(file.base_fingerprint, file.clara, await readTensors(path)),
  }
}

async function inspectPublished(path: string, options: InspectOptions): Promise<Inspection> {
  const config = await readPublishedConfig(path)
  const files: InspectedFile[] = []
  for (const name of ['adapters.pth', 'decoder_first_last_layers.pth'])
    if (name === 'adapters.pth' || (await exists(join(path, name)))) files.push(await listFile(join(path, name), name))
  const summary = summarise(path, 'published checkpoint', files)
  const base = await findBase(path, config, options.base).catch((error: unknown) => {
    if (error instanceof ClaraError) return undefined
    throw error
  })
  return {
    ...summary,
    ...(base === undefined ? {} : await architectureOf(base)),
    stage: config.training_stage,
    settings: config,
    memoryTokens: memoryLength(config),
    adapters: adaptersIn(files.flatMap(({ tensors }) => tensors)),
    base: { name: config.decoder_model_name, ...(base === undefined ? {} : { path: base }) },
    ...(base === undefined ? {} : await publishedFingerprints(path, base, summary.bytes, options)),
  }
}

async function publishedFingerprints(
  path: string,
  base: string,
  bytes: number,
  options: InspectOptions,
): Promise<Pick<Inspection, 'fingerprint' | 'baseFingerprint'>> {
  const weights = await weightFiles(base)
  if (!wanted(bytes + sum(weights.map((file) => file.bytes)), options)) return {}
  const checkpoint = await readPublished(path, { base })
  await using source = await openWeights(base)
  const baseFingerprint = await source.fingerprint()
  const tensors = await checkpointTensors(checkpoint)
  return { baseFingerprint, fingerprint: modelFingerprint(baseFingerprint, settingsOf(checkpoint.config), tensors) }
}

/** Architecture and fingerprint of a base model. One of an unknown family is still listed. */
async function weightsOf(path: string, bytes: number, options: InspectOptions): Promise<Partial<Inspection>> {
  const architecture = await architectureOf(path)
  if (!('architecture' in architecture) || !wanted(bytes, options)) return architecture
  await using source = await openWeights(path)
  return { ...architecture, fingerprint: await source.fingerprint() }
}

const wanted = (bytes: number, { fingerprint }: InspectOptions): boolean => fingerprint ?? bytes < quicklyRead

async function architectureOf(path: string): Promise<Pick<Inspection, 'architecture' | 'architectureProblem'>> {
  try {
    if (await exists(join(path, 'config.json'))) {
      const raw = z.record(z.string(), z.unknown()).parse(await readConfigJson(join(path, 'config.json')))
      return { architecture: parseDecoderConfig(raw) }
    }
    await using source = await openWeights(path)
    return { architecture: parseDecoderConfig(source.config) }
  } catch (error) {
    if (error instanceof ClaraError) return { architectureProblem: error.message }
    throw error
  }
}

/** The weights of a Hugging Face folder, its shards seen as one file. */
async function weightFiles(folder: string): Promise<InspectedFile[]> {
  const { format, tensors, metadata } = await listTensors(folder, true)
  const names = (await readdir(folder)).filter((name) => name.endsWith('.safetensors'))
  const sizes = await Promise.all(names.map(async (name) => (await stat(join(folder, name))).size))
  const [first = 'model.safetensors'] = names
  const file = names.length > 1 ? `${names.length} shards` : first
  return [{ file, format, bytes: sum(sizes), tensors, metadata: short(metadata) }]
}

async function listFile(path: string, name: string): Promise<InspectedFile> {
  const { format, tensors, metadata } = await listTensors(path)
  return { file: name, format, bytes: (await stat(path)).size, tensors, metadata: short(metadata) }
}

const longestValue = 200

/** Entries that fit on a line. */
function short(metadata: ReadonlyMap<string, unknown>): Record<string, string | number | boolean> {
  const entries = [...metadata].flatMap(([key, value]): [string, string | number | boolean][] => {
    if (typeof value === 'bigint') return [[key, value.toString()]]
    const isShort = typeof value === 'string' && value.length <= longestValue
    return isShort || typeof value === 'number' || typeof value === 'boolean' ? [[key, value]] : []
  })
  return Object.fromEntries(entries)
}

function summarise(path: string, kind: Inspection['kind'], files: readonly InspectedFile[]) {
  const parameters = sum(files.flatMap(({ tensors }) => tensors.map(({ shape }) => elementCount(shape))))
  return { path, kind, files, parameters, bytes: sum(files.map(({ bytes }) => bytes)) }
}

/** The adapters among a checkpoint's tensors, by role. */
function adaptersIn(tensors: readonly ListedTensor[]): InspectedAdapter[] {
  return roles.flatMap((role) => {
    const own = tensors.filter(({ name }) => name.includes(role) && /\.lora_[AB]\./.test(name))
    if (own.length === 0) return []
    return {
      role,
      rank: own.find(({ name }) => name.includes('.lora_A.'))?.shape[0] ?? 0,
      layers: new Set(own.map(({ name }) => /layers\.(\d+)\./.exec(name)?.[1])).size,
      parameters: sum(own.map(({ shape }) => elementCount(shape))),
      dtypes: [...new Set(own.map(({ dtype }) => dtype))],
    }
  })
}

const sum = (values: readonly number[]): number => values.reduce((total, value) => total + value, 0)

const exists = (path: string): Promise<boolean> =>
  stat(path).then(
    () => true,
    () => false,
  )

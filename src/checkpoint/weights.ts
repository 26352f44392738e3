import { createHash } from 'node:crypto'
import { existsSync } from 'node:fs'
import { readFile, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { ClaraError } from '../errors.ts'
import type { HostTensor } from '../graph/dtype.ts'
import type { GgufFile } from './gguf.ts'
import { openGguf } from './gguf.ts'
import { llamaConfig, llamaParameterName, uninterleaveHeads } from './gguf-llama.ts'
import { filesIdentity } from './identity.ts'
import type { SafetensorsFile } from './safetensors.ts'
import { indexName, openSafetensors } from './safetensors.ts'

/** A base model's weights, whatever file they lie in, under Hugging Face's names. One parameter is in memory at a time. */
export interface WeightSource {
  readonly path: string
  /** `config.json` of the model, with Hugging Face's names. */
  readonly config: Readonly<Record<string, unknown>>
  /** Hugging Face's parameter names, sorted: `model.layers.0.self_attn.q_proj.weight`, `model.embed_tokens.weight`, … */
  readonly names: readonly string[]
  /** Tokenizer metadata of a GGUF, keys `tokenizer.ggml.*` and `tokenizer.chat_template`; absent for other files. */
  readonly tokenizerMetadata?: ReadonlyMap<string, unknown>
  has(name: string): boolean
  /** Shape as Hugging Face stores it, [out, in] for a linear layer. */
  dims(name: string): readonly number[]
  /** The parameter as float32. */
  read(name: string): Promise<HostTensor>
  /** What tells this state of the files from another without reading them whole (see `filesIdentity`). */
  identity(): Promise<string>
  /** SHA-256 (hex) over names, stored types, shapes and stored bytes; reads the file once, then remembered. */
  fingerprint(): Promise<string>
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/**
 * Opens a base model: a `.gguf` file, a `.safetensors` file with `config.json` beside it, or a Hugging Face folder (`config.json` and
 * `model.safetensors`, sharded or not).
 *
 * @throws ClaraError when the path is none of these, a file is damaged, or a GGUF's architecture is not known.
 */
export async function openWeights(path: string): Promise<WeightSource> {
  const facts = await stat(path).catch((cause: unknown) => {
    throw new ClaraError(`The model "${path}" does not exist.`, {
      hint: 'Give a .gguf file or a Hugging Face folder.',
      cause,
    })
  })
  if (facts.isDirectory()) return folderSource(path, path)
  if (path.endsWith('.safetensors')) {
    const folder = dirname(path)
    // One shard alone is no model: take them all.
    return folderSource(existsSync(join(folder, indexName)) ? folder : path, folder)
  }
  return ggufSource(path)
}

/** One parameter: what it is called in the file, its place in the fingerprint, how it is read. */
interface Parameter {
  readonly dims: readonly number[]
  readonly storedType: string
  readonly read: () => Promise<HostTensor>
  readonly raw: () => AsyncIterable<Uint8Array>
}

function weightSource(
  path: string,
  files: readonly string[],
  config: Readonly<Record<string, unknown>>,
  parameters: ReadonlyMap<string, Parameter>,
  close: () => Promise<void>,
): WeightSource {
  const names = [...parameters.keys()].sort()
  let fingerprint: Promise<string> | undefined
  function find(name: string): Parameter {
    const parameter = parameters.get(name)
    if (parameter !== undefined) return parameter
    throw new ClaraError(`The model "${path}" has no parameter "${name}".`, { received: `${names.length} others` })
  }
  return {
    path,
    config,
    names,
    has: (name) => parameters.has(name),
    dims: (name) => find(name).dims,
    read: async (name) => find(name).read(),
    identity: () => filesIdentity(files),
    fingerprint() {
      fingerprint ??= hash(names.map((name) => [name, find(name)]))
      return fingerprint
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

async function hash(parameters: readonly (readonly [string, Parameter])[]): Promise<string> {
  const digest = createHash('sha256')
  for (const [name, parameter] of parameters) {
    digest.update(`${JSON.stringify([name, parameter.storedType, parameter.dims])}\n`)
    for await (const piece of parameter.raw()) digest.update(piece)
  }
  return digest.digest('hex')
}

async function folderSource(path: string, folder: string): Promise<WeightSource> {
  const config = await readConfig(join(folder, 'config.json'))
  const file = await openSafetensors(path)
  const parameters = new Map<string, Parameter>()
  for (const [name, tensor] of file.tensors) {
    parameters.set(name, {
      dims: tensor.dims,
      storedType: tensor.storedType,
      read: () => readFloat(file, name),
      raw: () => file.readRaw(name),
    })
  }
  return weightSource(path, file.files, config, parameters, () => file.close())
}

async function readFloat(file: SafetensorsFile, name: string): Promise<HostTensor> {
  const tensor = await file.read(name)
  if (tensor.dtype === 'float32') return tensor
  throw new ClaraError(`Parameter "${name}" of "${file.path}" is not stored as floating point.`, {
    expected: 'F32, F16 or BF16',
    received: file.tensors.get(name)?.storedType ?? tensor.dtype,
    hint: 'Quantised safetensors are not supported: use the original weights or a GGUF.',
  })
}

const largestConfig = 4 << 20

async function readConfig(path: string): Promise<Readonly<Record<string, unknown>>> {
  const facts = await stat(path).catch((cause: unknown) => {
    throw new ClaraError(`"${path}" does not exist.`, {
      expected: "the model's configuration beside its weights",
      hint: 'For a GGUF, give the .gguf file itself.',
      cause,
    })
  })
  if (facts.size > largestConfig)
    throw new ClaraError(`"${path}" is too large for a configuration.`, { received: `${facts.size} bytes` })
  let parsed: unknown
  try {
    parsed = JSON.parse(await readFile(path, 'utf8'))
  } catch (cause) {
    throw new ClaraError(`"${path}" is not JSON.`, {
      received: cause instanceof Error ? cause.message : String(cause),
      cause,
    })
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed))
    throw new ClaraError(`"${path}" is no JSON object.`)
  return parsed as Readonly<Record<string, unknown>>
}

/** Architectures that a GGUF may have, with what maps each to Hugging Face's terms. */
const ggufArchitectures = {
  llama: { config: llamaConfig, parameters: llamaParameters },
} as const

async function ggufSource(path: string): Promise<WeightSource> {
  const file = await openGguf(path)
  try {
    const name = file.metadata.get('general.architecture')
    if (typeof name !== 'string' || !Object.hasOwn(ggufArchitectures, name)) {
      throw new ClaraError(`"${path}" has an architecture that is not known.`, {
        expected: `one of ${Object.keys(ggufArchitectures).join(', ')}`,
        received: JSON.stringify(name) ?? 'none',
        hint: 'Use the safetensors of this model instead.',
      })
    }
    const architecture = ggufArchitectures[name as keyof typeof ggufArchitectures]
    const config = await architecture.config(file)
    const source = weightSource(path, [path], config, architecture.parameters(file, config), () => file.close())
    return { ...source, tokenizerMetadata: new Map([...file.metadata].filter(([key]) => key.startsWith('tokenizer.'))) }
  } catch (error) {
    await file.close()
    throw error
  }
}

function llamaParameters(file: GgufFile, config: Readonly<Record<string, unknown>>): ReadonlyMap<string, Parameter> {
  const parameters = new Map<string, Parameter>()
  for (const [stored, tensor] of file.tensors) {
    const name = llamaParameterName(file, stored)
    if (name === undefined) continue
    const heads = name.includes('.q_proj.')
      ? config.num_attention_heads
      : name.includes('.k_proj.')
        ? config.num_key_value_heads
        : undefined
    const rows = Number(heads) * Number(config.head_dim)
    if (heads !== undefined && tensor.dims[0] !== rows) {
      throw new ClaraError(`"${file.path}" is damaged: tensor "${stored}" does not fit its heads.`, {
        expected: `${rows} rows`,
        received: `shape [${tensor.dims}]`,
      })
    }
    const read = async () => {
      const values = await file.read(stored)
      return typeof heads === 'number' ? uninterleaveHeads(values, heads) : values
    }
    parameters.set(name, { dims: tensor.dims, storedType: tensor.ggmlType, read, raw: () => file.readRaw(stored) })
  }
  return parameters
}

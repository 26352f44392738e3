import type { WeightSource } from '../checkpoint/weights.ts'
import { createRandom } from '../data/random.ts'
import { ClaraError } from '../errors.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { type DecoderConfig, layerParameters, parseDecoderConfig } from '../model/config.ts'
import { toShared } from '../runtime/runtime.ts'
import type { StoredBase } from './layer-stack.ts'
import { EMBEDDING, HEAD } from './network.ts'

/** A frozen language model in memory, its embedding (and head) resized for CLaRa's tokens. */
export interface BaseModel {
  readonly config: DecoderConfig
  /** By checkpoint name, float32, in shared memory. Empty where they are `stored`. */
  readonly weights: ReadonlyMap<string, HostTensor>
  /** Rows of the embedding. */
  readonly vocabulary: number
  /** Rows that the base itself brought. */
  readonly baseVocabulary: number
  /** Mean L2 norm of the base's own embedding rows. */
  readonly embeddingNorm: number
  readonly fingerprint: string
  /** The weights in the form that a stack of layers runs on, where they are not in `weights`. */
  readonly stored?: StoredBase
}

export interface LoadBaseOptions {
  /** Length of the tokenizer before CLaRa's tokens: rows beyond it (padding of the vocabulary) are cut. */
  readonly baseVocabulary: number
  /** Length of the tokenizer with CLaRa's tokens. */
  readonly vocabulary: number
  /** Decides the new rows: independent noise at the norm of the base rows. */
  readonly seed?: number
}

/** Reads all weights of a decoder. */
export async function loadBase(source: WeightSource, options: LoadBaseOptions): Promise<BaseModel> {
  const config = parseDecoderConfig(source.config)
  const weights = new Map<string, HostTensor>()
  const read = async (name: string, dims: readonly number[]) => {
    weights.set(name, toShared(await readParameter(source, name, dims)))
  }
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    for (const [name, dims] of layerParameters(config)) await read(`model.layers.${layer}.${name}`, dims)
  }
  await read('model.norm.weight', [config.hidden_size])
  const { embeddingNorm, embedding, head } = await readTables(source, config, options)
  weights.set(EMBEDDING, embedding)
  if (head) weights.set(HEAD, head)
  return {
    config,
    weights,
    vocabulary: options.vocabulary,
    baseVocabulary: options.baseVocabulary,
    embeddingNorm,
    fingerprint: await source.fingerprint(),
  }
}

/**
 * One parameter of a base, float32.
 * @throws ClaraError when it is missing or has another shape.
 */
export async function readParameter(source: WeightSource, name: string, dims: readonly number[]): Promise<HostTensor> {
  const tensor = await source.read(name)
  if (tensor.dims.join() === dims.join()) return tensor
  throw new ClaraError(`The parameter '${name}' of ${source.path} has the wrong shape.`, {
    expected: `[${dims.join(', ')}], which the model's configuration says`,
    received: `[${tensor.dims.join(', ')}]`,
  })
}

/** Mean L2 norm of the embedding rows that the base brought. */
export async function readEmbeddingNorm(source: WeightSource, options: LoadBaseOptions): Promise<number> {
  const table = await source.read(EMBEDDING)
  checkVocabulary(source, table, options)
  return meanRowNorm(table.data as Float32Array, options.baseVocabulary, table.dims[1] ?? 0)
}

/** Embedding and head (undefined where it is the embedding), with rows for CLaRa's tokens. */
export async function readTables(
  source: WeightSource,
  config: DecoderConfig,
  options: LoadBaseOptions,
): Promise<{ readonly embedding: HostTensor; readonly head: HostTensor | undefined; readonly embeddingNorm: number }> {
  const random = createRandom(options.seed ?? 0)
  const read = async (name: string) => {
    const table = await source.read(name)
    checkVocabulary(source, table, options)
    const norm = meanRowNorm(table.data as Float32Array, options.baseVocabulary, config.hidden_size)
    return { norm, table: resized(table, options, norm, random.normal) }
  }
  const embedding = await read(EMBEDDING)
  const head = config.tie_word_embeddings ? undefined : await read(HEAD)
  return { embedding: embedding.table, head: head?.table, embeddingNorm: embedding.norm }
}

function checkVocabulary(source: WeightSource, embedding: HostTensor, { baseVocabulary }: LoadBaseOptions): void {
  const rows = embedding.dims[0] ?? 0
  if (rows < baseVocabulary) {
    throw new ClaraError(`The tokenizer does not belong to ${source.path}.`, {
      expected: `at most ${rows} tokens, the rows of its embedding`,
      received: `${baseVocabulary} tokens`,
      hint: 'Use the tokenizer.json that came with the model.',
    })
  }
}

function resized(table: HostTensor, options: LoadBaseOptions, norm: number, normal: () => number): HostTensor {
  const hidden = table.dims[1] ?? 0
  const data = new Float32Array(new SharedArrayBuffer(options.vocabulary * hidden * 4))
  data.set((table.data as Float32Array).subarray(0, options.baseVocabulary * hidden))
  for (let index = options.baseVocabulary * hidden; index < data.length; index++)
    data[index] = (normal() * norm) / Math.sqrt(hidden)
  return { dtype: 'float32', dims: [options.vocabulary, hidden], data }
}

/** Mean L2 norm of the first `rows` rows. */
function meanRowNorm(data: Float32Array, rows: number, width: number): number {
  let sum = 0
  for (let row = 0; row < rows; row++) {
    let squares = 0
    for (let index = row * width; index < (row + 1) * width; index++) squares += (data[index] ?? 0) ** 2
    sum += Math.sqrt(squares)
  }
  return sum / rows
}

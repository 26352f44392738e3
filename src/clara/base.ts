import type { WeightSource } from '../checkpoint/weights.ts'
import { createRandom } from '../data/random.ts'
import { ClaraError } from '../errors.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { type DecoderConfig, linearModules, parseDecoderConfig } from '../model/config.ts'
import { toShared } from '../runtime/runtime.ts'
import { EMBEDDING, HEAD } from './network.ts'

/** A frozen language model in memory, its embedding (and head) resized for CLaRa's tokens. */
export interface BaseModel {
  readonly config: DecoderConfig
  /** By checkpoint name, float32, in shared memory. */
  readonly weights: ReadonlyMap<string, HostTensor>
  /** Rows of the embedding. */
  readonly vocabulary: number
  /** Rows that the base itself brought. */
  readonly baseVocabulary: number
  /** Mean L2 norm of the base's own embedding rows. */
  readonly embeddingNorm: number
  readonly fingerprint: string
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
    const tensor = await source.read(name)
    if (tensor.dims.join() !== dims.join()) {
      throw new ClaraError(`The parameter '${name}' of ${source.path} has the wrong shape.`, {
        expected: `[${dims.join(', ')}], which the model's configuration says`,
        received: `[${tensor.dims.join(', ')}]`,
      })
    }
    weights.set(name, toShared(tensor))
  }
  const hidden = config.hidden_size
  for (let layer = 0; layer < config.num_hidden_layers; layer++) {
    const prefix = `model.layers.${layer}`
    for (const [module, dims] of linearModules(config)) await read(`${prefix}.${module}.weight`, dims)
    await read(`${prefix}.input_layernorm.weight`, [hidden])
    await read(`${prefix}.post_attention_layernorm.weight`, [hidden])
  }
  await read('model.norm.weight', [hidden])

  const embedding = await source.read(EMBEDDING)
  checkVocabulary(source, embedding, options)
  const norm = meanRowNorm(embedding.data as Float32Array, options.baseVocabulary, hidden)
  const random = createRandom(options.seed ?? 0)
  weights.set(EMBEDDING, resized(embedding, options, norm, random.normal))
  if (!config.tie_word_embeddings) {
    const head = await source.read(HEAD)
    weights.set(
      HEAD,
      resized(head, options, meanRowNorm(head.data as Float32Array, options.baseVocabulary, hidden), random.normal),
    )
  }
  return {
    config,
    weights,
    vocabulary: options.vocabulary,
    baseVocabulary: options.baseVocabulary,
    embeddingNorm: norm,
    fingerprint: await source.fingerprint(),
  }
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

import { openWeights } from '../../src/checkpoint/weights.ts'
import { type BaseModel, loadBase } from '../../src/clara/base.ts'
import { MEMORY_ROWS } from '../../src/clara/compressor.ts'
import { claraConfig, memoryLength } from '../../src/clara/config.ts'
import type { ClaraModel } from '../../src/clara/model.ts'
import { EMBEDDING } from '../../src/clara/network.ts'
import { claraTokens } from '../../src/clara/prompts.ts'
import { createRandom, type Random } from '../../src/data/random.ts'
import { float32, type HostTensor } from '../../src/graph/dtype.ts'
import { loadTokenizer } from '../../src/tokenizer/load.ts'

/** Noise of the memory tokens' embeddings, as a share of the base's embeddings' norm. */
const TINY = 0.01

/** Embeddings of memory tokens as the published code begins with: the mean of the base's embeddings and a little noise. */
export function memoryRows(base: BaseModel, rows: number, random: Random): HostTensor {
  const hidden = base.config.hidden_size
  const table = base.weights.get(EMBEDDING)?.data ?? new Float32Array()
  const mean = new Float64Array(hidden)
  for (let row = 0; row < base.baseVocabulary; row++) {
    for (let index = 0; index < hidden; index++) mean[index] = (mean[index] ?? 0) + Number(table[row * hidden + index])
  }
  const noise = (TINY * base.embeddingNorm) / Math.sqrt(hidden)
  const values = Float32Array.from(
    { length: rows * hidden },
    (_, index) => (mean[index % hidden] ?? 0) / base.baseVocabulary + random.normal() * noise,
  )
  return float32(values, [rows, hidden])
}

export interface PublishedModelOptions {
  /** The base model: a .gguf file or a Hugging Face folder. */
  readonly base: string
  /** Folder with its tokenizer.json. */
  readonly tokenizer: string
  /** A trained model on the same base, whose generator adapter has all layers. */
  readonly trained: ClaraModel
  readonly docMaxLength: number
  readonly comprRate: number
}

/**
 * A model in the published configuration: memory tokens and all layers. Nobody has trained one on this base, so the
 * generator adapter of another model stands in for the compressor's too: it has the same shape, and the structure that
 * training gives, which noise of that size lacks. What the model answers means nothing; what it computes costs the same.
 */
export async function publishedConfiguration(options: PublishedModelOptions): Promise<ClaraModel> {
  const { trained } = options
  const config = claraConfig.parse({
    compr_rate: options.comprRate,
    doc_max_length: options.docMaxLength,
    lora_r: trained.config.lora_r,
    lora_alpha: trained.config.lora_alpha,
  })
  const count = memoryLength(config)
  const baseTokenizer = await loadTokenizer(options.tokenizer)
  const tokenizer = baseTokenizer.withAddedTokens(claraTokens({ count, differentMemTokens: true }))
  await using source = await openWeights(options.base)
  const base = await loadBase(source, {
    baseVocabulary: baseTokenizer.vocabularySize,
    vocabulary: tokenizer.vocabularySize,
  })
  const adapter = [...trained.parameters].filter(([name]) => name.includes('.decoder_adapter.'))
  const standIn = adapter.map(([name, value]) => [name.replace('decoder_adapter', 'encoder_adapter'), value] as const)
  return {
    base,
    tokenizer,
    firstMemoryToken: baseTokenizer.vocabularySize,
    memoryTokens: count,
    config,
    parameters: new Map([...adapter, ...standIn, [MEMORY_ROWS, memoryRows(base, count, createRandom(1))]]),
    idf: undefined,
    stage: 'stage1',
    fingerprint: 'benchmark',
  }
}

import { join } from 'node:path'
import { openWeights } from '../../src/checkpoint/weights.ts'
import { type BaseModel, loadBase } from '../../src/clara/base.ts'
import { type CompressorConfig, compressorConfig } from '../../src/clara/config.ts'
import { claraTokens } from '../../src/clara/prompts.ts'
import { createRandom } from '../../src/data/random.ts'
import { float32, type HostTensor } from '../../src/graph/dtype.ts'
import { initialAdapter } from '../../src/lora/adapters.ts'
import type { Runtime } from '../../src/runtime/runtime.ts'
import { loadTokenizer } from '../../src/tokenizer/load.ts'
import type { Tokenizer } from '../../src/tokenizer/types.ts'
import type { SampleOptions } from '../../src/training/stages/samples.ts'
import type { Stage1ModelOptions } from '../../src/training/stages/stage1.ts'
import { randomBase } from '../model/families.ts'

/** Folder of a base model that is small enough for every test. */
export const tinyBase = (architecture = 'mistral-1'): string =>
  join(import.meta.dirname, '..', 'fixtures', 'parity', architecture, 'base')

export interface TinyOptions {
  readonly compressor?: Partial<CompressorConfig>
  readonly architecture?: 'mistral-1' | 'llama-3' | 'qwen2-2' | 'qwen3-4' | 'phi3-5'
  /** Another base than the folder's: a config.json, to random weights. The tokenizer stays. */
  readonly config?: Readonly<Record<string, unknown>>
  readonly docMaxLength?: number
  readonly rate?: number
  readonly differentMemTokens?: boolean
  /** Whether the low-rank factors are as training starts with them. Default: random everywhere, so that nothing is zero. */
  readonly fresh?: boolean
  readonly dropout?: number
}

export interface TinyModel {
  readonly base: BaseModel
  readonly tokenizer: Tokenizer
  readonly options: Stage1ModelOptions
  readonly samples: SampleOptions
  readonly rate: number
}

/** The tiny base with adapters and everything that a compressor learns. */
export async function tinyModel(runtime: Runtime, settings: TinyOptions = {}): Promise<TinyModel> {
  const {
    architecture = 'mistral-1',
    docMaxLength = 24,
    rate = 4,
    differentMemTokens = false,
    fresh = false,
  } = settings
  const compressor = compressorConfig.parse(settings.compressor ?? {})
  const folder = tinyBase(architecture)
  const fixedCount = Math.floor(docMaxLength / rate)
  const baseTokenizer = await loadTokenizer(folder)
  const tokenizer = baseTokenizer.withAddedTokens(claraTokens({ count: fixedCount, differentMemTokens }))
  const sizes = { baseVocabulary: baseTokenizer.vocabularySize, vocabulary: tokenizer.vocabularySize }
  await using source = await openWeights(folder)
  const base = settings.config ? await randomBase(settings.config, sizes) : await loadBase(source, sizes)
  const random = createRandom(7)
  const noise = (count: number, size: number) => Float32Array.from({ length: count }, () => size * random.normal())
  const lora = { rank: 4, alpha: 8 }
  const parameters = new Map<string, HostTensor>([
    ...initialAdapter(base.config, lora, 'encoder_adapter', random.uniform, compressor.compressorLayers),
    ...initialAdapter(base.config, lora, 'decoder_adapter', random.uniform),
  ])
  if (!fresh) {
    for (const { data } of parameters.values()) (data as Float32Array).set(noise(data.length, 0.1))
  }
  const hidden = base.config.hidden_size
  const memoryTokens = differentMemTokens ? fixedCount : 1
  if (compressor.memory === 'tokens') {
    parameters.set('memory_tokens.weight', float32(noise(memoryTokens * hidden, 0.3), [memoryTokens, hidden]))
  }
  if (compressor.memory === 'salient') {
    parameters.set('salient.alpha', float32([0.1], [1]))
    parameters.set('salient.beta', float32([1.5], [1]))
    parameters.set('salient.weight', float32(noise(hidden, fresh ? 0 : 0.3), [hidden, 1]))
  }
  const samples: SampleOptions = {
    tokenizer,
    docMaxLength,
    memoryCount: (length) => (compressor.proportional ? Math.max(1, Math.ceil(length / rate)) : fixedCount),
    differentMemTokens,
    memoryInInput: compressor.memory === 'tokens',
    maxLength: 256,
    questionsPerRow: 4,
  }
  const options: Stage1ModelOptions = {
    runtime,
    base,
    lora,
    pooling: { config: compressor, fixedCount, idf: noise(tokenizer.vocabularySize, 1) },
    memoryTokens,
    firstMemoryToken: baseTokenizer.vocabularySize,
    padId: tokenizer.padId,
    positions: 256,
    dropout: settings.dropout ?? 0,
    mseWeight: 0.1,
    parameters,
  }
  return { base, tokenizer, options, samples, rate }
}

/** Documents of unequal length, the longest of which is cut. */
export const tinyTexts = [
  'The bridges were closed while a film was shot in the city, and the people had to take the boat for nine days.',
  'Rain fell for nine days.',
  'A short one.',
]

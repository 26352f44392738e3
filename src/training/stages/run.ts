import { dirname, extname } from 'node:path'
import { openWeights } from '../../checkpoint/weights.ts'
import { loadBase } from '../../clara/base.ts'
import { SALIENT } from '../../clara/compressor.ts'
import { claraTokens } from '../../clara/prompts.ts'
import { createRandom } from '../../data/random.ts'
import { ClaraError } from '../../errors.ts'
import { float32, type HostTensor } from '../../graph/dtype.ts'
import { initialAdapter } from '../../lora/adapters.ts'
import { openRuntime } from '../../runtime/runtime.ts'
import { loadTokenizer } from '../../tokenizer/load.ts'
import { standardisedIdf } from '../idf.ts'
import { train, type TrainingProgress, type TrainingResult } from '../trainer.ts'
import { stageBatches } from './batches.ts'
import type { StageConfig } from './config.ts'
import { controlBatches, meanLoss } from './evaluation.ts'
import type { SampleOptions } from './samples.ts'
import { openStage1, openStage1Evaluation, type Stage1ModelOptions } from './stage1.ts'

/** Name under which a run keeps the rarity of tokens, beside the learned parameters. */
export const IDF = 'salient.idf'

export interface StageRunOptions {
  readonly config: StageConfig
  readonly resume?: boolean
  readonly signal?: AbortSignal
  readonly abandon?: AbortSignal
  readonly progress?: TrainingProgress
}

/** Trains stage 1 as a configuration says: reads base, tokenizer and data, then hands over to the trainer. */
export async function runStage1({ config, ...options }: StageRunOptions): Promise<TrainingResult> {
  if (config.stage !== 'stage1' && config.stage !== 'stage1_2') {
    throw new ClaraError(`The stage '${config.stage}' cannot be trained yet.`, { expected: 'stage1 or stage1_2' })
  }
  const { compressor } = config
  const fixedCount = Math.floor(config.docMaxLength / (config.compressionRates[0] ?? 1))
  const memoryInInput = compressor.memory === 'tokens'
  const memoryTokens = config.differentMemTokens ? fixedCount : 1
  const baseTokenizer = await loadTokenizer(config.tokenizer ?? (extname(config.base) === '' ? config.base : dirname(config.base)))
  const tokenizer = baseTokenizer.withAddedTokens(claraTokens({ count: fixedCount, differentMemTokens: config.differentMemTokens }))
  await using source = await openWeights(config.base)
  const base = await loadBase(source, {
    baseVocabulary: baseTokenizer.vocabularySize,
    vocabulary: tokenizer.vocabularySize,
    seed: config.seed,
  })

  const optionsAt = (rate: number): SampleOptions => ({
    tokenizer,
    docMaxLength: config.docMaxLength,
    memoryCount: (textTokens) => (compressor.proportional ? Math.max(1, Math.ceil(textTokens / rate)) : fixedCount),
    differentMemTokens: config.differentMemTokens,
    memoryInInput,
    maxLength: config.maxLength,
    questionsPerRow: config.questionsPerRow,
  })
  const { batches, texts } = await stageBatches(config, optionsAt)
  const parameters = initialParameters(config, base.config, memoryInInput ? memoryTokens : 0, base.embeddingNorm)
  const idf =
    compressor.memory === 'salient'
      ? standardisedIdf(distinct(texts).map((text) => tokenizer.encode(text)), base.vocabulary)
      : undefined

  await using runtime = await openRuntime()
  const modelOptions: Stage1ModelOptions = {
    runtime,
    base,
    lora: { rank: config.lora.rank, alpha: config.lora.alpha },
    pooling: { config: compressor, fixedCount, idf },
    memoryTokens,
    firstMemoryToken: baseTokenizer.vocabularySize,
    padId: tokenizer.padId,
    positions: config.maxLength,
    dropout: config.lora.dropout,
    mseWeight: config.mseWeight,
    parameters,
  }
  const model = await openStage1(modelOptions)
  const evaluate = await evaluation(config, optionsAt, modelOptions)
  return await train({ model, batches, config, runFolder: config.output, ...options, ...(evaluate ? { evaluate } : {}) })
}

const distinct = (texts: readonly string[]) => [...new Set(texts)]

/** Fresh parameters: adapters that change nothing, memory-token rows as noise at the embeddings' norm, salient weights of the design. */
function initialParameters(
  config: StageConfig,
  model: Parameters<typeof initialAdapter>[0],
  memoryRows: number,
  norm: number,
): Map<string, HostTensor> {
  const random = createRandom(config.seed)
  const { compressorLayers, memory } = config.compressor
  const parameters = new Map([
    ...initialAdapter(model, config.lora, 'encoder_adapter', random.uniform, compressorLayers),
    ...initialAdapter(model, config.lora, 'decoder_adapter', random.uniform),
  ])
  const hidden = model.hidden_size
  if (memoryRows > 0) {
    const rows = Float32Array.from({ length: memoryRows * hidden }, () => (random.normal() * norm) / Math.sqrt(hidden))
    parameters.set('memory_tokens.weight', float32(rows, [memoryRows, hidden]))
  }
  if (memory === 'salient') {
    parameters.set(SALIENT.alpha, float32([0.1], [1]))
    parameters.set(SALIENT.beta, float32([1.5], [1]))
    parameters.set(SALIENT.weight, float32(new Float32Array(hidden), [hidden, 1]))
  }
  return parameters
}

async function evaluation(config: StageConfig, optionsAt: (rate: number) => SampleOptions, modelOptions: Stage1ModelOptions) {
  const [file] = config.evaluation.data
  if (!file) return undefined
  const rate = config.compressionRates[0] ?? 1
  const controls = await controlBatches(file.file, config.evaluation.samples, optionsAt(rate), rate)
  const model = await openStage1Evaluation(modelOptions)
  return async () => ({
    loss: await meanLoss(controls.right, model.loss),
    lossWrongMemory: await meanLoss(controls.wrong, model.loss),
    lossNoMemory: await meanLoss(controls.none, model.loss),
    lossFullText: await meanLoss(controls.text, model.loss),
  })
}

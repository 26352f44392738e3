import { fixedWidth } from '../../clara/batch.ts'
import { SALIENT } from '../../clara/compressor.ts'
import { createRandom } from '../../data/random.ts'
import { ClaraError } from '../../errors.ts'
import { float32, type HostTensor } from '../../graph/dtype.ts'
import { initialAdapter } from '../../lora/adapters.ts'
import { openRuntime } from '../../runtime/runtime.ts'
import type { TrainableModel } from '../model.ts'
import { type TrainingProgress, type TrainingResult, train } from '../trainer.ts'
import type { StageConfig } from './config.ts'
import { type ControlBatches, controlBatches, meanLoss } from './evaluation.ts'
import { takeParameters } from './initialise.ts'
import { openStage1Layerwise } from './layerwise.ts'
import { stageIdf, stageMaterial } from './material.ts'
import type { SampleOptions } from './samples.ts'
import { openStage1, openStage1Evaluation, type Stage1ModelOptions, type StageBatch } from './stage1.ts'

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
  const material = await stageMaterial(config)
  const { base, memoryTokens } = material
  const memoryRows = config.compressor.memory === 'tokens' ? memoryTokens : 0
  const parameters = initialParameters(config, base.config, memoryRows, base.embeddingNorm)
  // a resumed run has them all in its own checkpoint
  if (config.initialise !== undefined && !options.resume) await takeParameters(config.initialise, parameters, base)
  await using runtime = await openRuntime(config.threads === undefined ? {} : { threads: config.threads })
  const modelOptions: Stage1ModelOptions = {
    runtime,
    base,
    lora: { rank: config.lora.rank, alpha: config.lora.alpha },
    pooling: {
      config: config.compressor,
      fixedCount: material.fixedCount,
      idf: stageIdf(config, material),
      width: fixedWidth(base.config, config.docMaxLength, material.fixedCount),
    },
    memoryTokens,
    firstMemoryToken: material.firstMemoryToken,
    padId: material.tokenizer.padId,
    // whichever is longer: a row of prompts, or a document with its memory tokens
    positions: Math.max(config.maxLength * config.questionsPerRow, config.docMaxLength + material.fixedCount + 3),
    dropout: config.lora.dropout,
    frozenWeights: config.frozenWeights,
    mseWeight: config.mseWeight,
    parameters,
  }
  const { model, openLoss } = await openModel(config, modelOptions)
  const evaluate = await evaluation(config, material.optionsAt, openLoss)
  return await train({
    model,
    batches: material.batches,
    config,
    runFolder: config.output,
    ...options,
    ...(evaluate ? { evaluate } : {}),
  })
}

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

type Loss = (batch: StageBatch) => Promise<number>

/** The model to train, and what opens its loss for evaluation. */
async function openModel(
  { memoryMode }: StageConfig,
  options: Stage1ModelOptions,
): Promise<{ model: TrainableModel<StageBatch>; openLoss: () => Promise<Loss> }> {
  if (memoryMode === 'saving') {
    const model = await openStage1Layerwise(options)
    return { model, openLoss: async () => model.loss }
  }
  return { model: await openStage1(options), openLoss: async () => (await openStage1Evaluation(options)).loss }
}

async function evaluation(
  config: StageConfig,
  optionsAt: (rate: number) => SampleOptions,
  openLoss: () => Promise<Loss>,
) {
  const { data, samples } = config.evaluation
  if (data.length === 0) return undefined
  const rate = config.compressionRates[0] ?? 1
  const files = await Promise.all(data.map(({ file }) => controlBatches(file, samples, optionsAt(rate), rate)))
  const loss = await openLoss()
  const mean = (control: keyof ControlBatches) =>
    meanLoss(
      files.flatMap((batches) => batches[control]),
      loss,
    )
  return async () => ({
    loss: await mean('right'),
    lossWrongMemory: await mean('wrong'),
    lossNoMemory: await mean('none'),
    lossFullText: await mean('text'),
  })
}

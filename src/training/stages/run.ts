import { openRuntime } from '../../runtime/runtime.ts'
import type { TrainableModel } from '../model.ts'
import { recordRun } from '../run-folder.ts'
import { type TrainingProgress, type TrainingResult, train } from '../trainer.ts'
import { isCompressorStage, readsMemory, type StageConfig } from './config.ts'
import { openDistillation } from './distillation.ts'
import { type ControlBatches, controlBatches, meanLoss } from './evaluation.ts'
import { readStart, startParameters } from './initialise.ts'
import { openStage1Layerwise } from './layerwise.ts'
import { stageIdf, stageMaterial } from './material.ts'
import { memoryModeOf } from './plan.ts'
import { runControl } from './run-control.ts'
import { runReasoning } from './run-reasoning.ts'
import { runRetrieval } from './run-retrieval.ts'
import type { SampleOptions } from './samples.ts'
import { memoryRows, stageModelOptions } from './set-up.ts'
import { openStage1, openStage1Evaluation, type Stage1ModelOptions, type StageBatch } from './stage1.ts'

export interface StageRunOptions {
  readonly config: StageConfig
  readonly resume?: boolean
  readonly signal?: AbortSignal
  readonly abandon?: AbortSignal
  readonly progress?: TrainingProgress
}

/** How a run ended, and what its compressor did. */
export interface StageResult extends TrainingResult {
  /** Documents that a frozen compressor had to compress, as no memory of them was kept. Undefined where the compressor learns. */
  readonly compressed?: number
}

/** Trains a stage as a configuration says: reads base, tokenizer and data, then hands over to the trainer. */
export async function runStage(options: StageRunOptions): Promise<StageResult> {
  const { stage } = options.config
  if (isCompressorStage(stage) && readsMemory(options.config)) return await runStage1(options)
  // there is one mode only, but a budget that it passes is told before hours of compression
  await memoryModeOf(options.config)
  if (isCompressorStage(stage)) return await runControl(options)
  return stage === 'stage2_reasoning' ? await runReasoning(options) : await runRetrieval(options)
}

/** Compressor and generator learn together. */
async function runStage1({ config, ...options }: StageRunOptions): Promise<TrainingResult> {
  const material = await stageMaterial(config)
  const { base } = material
  // a resumed run has them all in its own checkpoint
  const start =
    config.initialise !== undefined && !options.resume ? await readStart(config.initialise, base) : undefined
  const parameters = startParameters(config, base, memoryRows(config, material), start)
  await using runtime = await openRuntime(config.threads === undefined ? {} : { threads: config.threads })
  const modelOptions: Stage1ModelOptions = {
    ...stageModelOptions(config, material, { runtime, parameters, idf: stageIdf(config, material) }),
    ...(config.distillation
      ? { distillation: await openDistillation(config.distillation, config.base, base.fingerprint) }
      : {}),
  }
  const { model, openLoss } = await openModel({ ...config, memoryMode: await memoryModeOf(config) }, modelOptions)
  const evaluate = await evaluation(config, material.optionsAt, openLoss)
  await recordRun(config, options.resume ?? false)
  return await train({
    model,
    batches: material.batches,
    config,
    runFolder: config.output,
    ...options,
    ...(evaluate ? { evaluate } : {}),
  })
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

import { mapStream } from '../../data/stream.ts'
import { openRuntime } from '../../runtime/runtime.ts'
import { recordRun } from '../run-folder.ts'
import { train } from '../trainer.ts'
import type { StageConfig } from './config.ts'
import { controlBatches, meanLoss } from './evaluation.ts'
import { frozenStart } from './frozen-start.ts'
import { type StageMaterial, stageMaterial } from './material.ts'
import { openReading, openReadingEvaluation, type ReadingBatch } from './reading.ts'
import type { StageResult, StageRunOptions } from './run.ts'
import { stageModelOptions } from './set-up.ts'
import type { Stage1ModelOptions, StageBatch } from './stage1.ts'

/**
 * The generator alone learns to answer from the documents' text, or from nothing: what a memory is measured against. The
 * compressor that it starts from is carried along as it is and never runs.
 */
export async function runControl({ config, ...options }: StageRunOptions): Promise<StageResult> {
  const material = await stageMaterial(config)
  const resume = options.resume ?? false
  const start = await frozenStart(config, material, material.texts, resume)
  await using runtime = await openRuntime(config.threads === undefined ? {} : { threads: config.threads })
  const model = stageModelOptions(config, material, { runtime, ...start })
  const learning = await openReading(model)
  const evaluate = await evaluation(config, material, model)
  await recordRun(config, resume)
  await start.keep(learning.parameters.keys())
  const result = await train({
    model: learning,
    batches: mapStream(material.batches, withoutMemory),
    config,
    runFolder: config.output,
    ...options,
    ...(evaluate ? { evaluate } : {}),
  })
  return { ...result, compressed: 0 }
}

const withoutMemory = ({ rows }: StageBatch): ReadingBatch => ({ memories: [], rows })

/** The loss on the questions that a run with memory is evaluated on, read as this run reads. */
async function evaluation(
  { evaluation: { data, samples }, background, compressionRates: [rate = 1] }: StageConfig,
  { optionsAt }: StageMaterial,
  model: Stage1ModelOptions,
) {
  if (data.length === 0) return undefined
  const files = await Promise.all(data.map(({ file }) => controlBatches(file, samples, optionsAt(rate), rate)))
  const batches = files.flatMap((controls) => controls[background === 'text' ? 'text' : 'none'])
  const reading = await openReadingEvaluation(model)
  return async () => ({ loss: await meanLoss(batches, (batch) => reading.loss(withoutMemory(batch))) })
}

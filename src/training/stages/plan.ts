import type { WeightSource } from '../../checkpoint/weights.ts'
import type { BaseModel, LoadBaseOptions } from '../../clara/base.ts'
import { parseDecoderConfig } from '../../model/config.ts'
import type { DataFile } from '../config.ts'
import { type Dims, dimsOf, flopsOf } from '../estimate.ts'
import { isCompressorStage, readsMemory, type StageConfig } from './config.ts'
import { type StageTools, stageTools } from './material.ts'
import { chooseMemoryMode, estimateMemory, type MemoryEstimate, parametersByRole } from './memory-estimate.ts'
import { controlSteps, reasoningSteps, retrievalSteps, type StepSource, stage1Steps } from './plan-sources.ts'

/** What a run will do, known before it starts. */
export interface RunPlan {
  readonly stage: StageConfig['stage']
  readonly steps: number
  /** Samples of an update. */
  readonly samplesPerStep: number
  /** The run's files: items, and how often each will have been seen. */
  readonly data: readonly (Pick<DataFile, 'file' | 'task'> & { readonly items: number; readonly passes: number })[]
  /** Inputs that name the graph's dimensions: their mean and largest sizes over some batches. */
  readonly dimensions: readonly { readonly name: string; readonly mean: number; readonly largest: number }[]
  /** Trainable numbers by role. */
  readonly parameters: Readonly<Record<string, number>>
  /** Floating-point operations of an update's matrix products, counted from the graph, on average. */
  readonly flopsPerStep: number
  /** Memory of the process, estimated for the largest of the batches looked at. */
  readonly memoryMiB: MemoryEstimate
  readonly memoryMode: 'fast' | 'saving'
}

/** Batches that are looked at. */
const LOOKED_AT = 60

/**
 * Plans a run from its configuration and data, without the base's weights.
 * @throws ClaraError for whatever would stop the run at its start, so far as it shows without weights.
 */
export async function planStage(config: StageConfig): Promise<RunPlan> {
  const tools = await stageTools(config, shapeOfBase)
  if (isCompressorStage(config.stage)) {
    const steps = readsMemory(config) ? stage1Steps : controlSteps
    return await planFrom(config, tools, await steps(config, tools))
  }
  return config.stage === 'stage2_reasoning'
    ? await planFrom(config, tools, await reasoningSteps(config, tools))
    : await planFrom(config, tools, await retrievalSteps(config, tools))
}

async function planFrom<Batch>(config: StageConfig, tools: StageTools, source: StepSource<Batch>): Promise<RunPlan> {
  const { samplesOf, counts } = source
  const int8 = config.frozenWeights === 'int8'
  const exact = source.graphOf({ int8: false, withGradients: true })
  const training = int8 ? source.graphOf({ int8, withGradients: true }) : exact
  const evaluation =
    config.evaluation.data.length > 0 ? source.graphOf({ int8: false, withGradients: false }) : undefined
  const { accumulate, steps, batchSize, data } = config
  const sizes: Dims[] = []
  const samples: number[] = []
  while (sizes.length < LOOKED_AT) {
    const batch = await source.batches.next()
    sizes.push(dimsOf(exact.graph, source.feeds(batch)))
    samples.push(samplesOf(batch))
  }
  const memoryMiB = estimateMemory(config, tools.base, { training, evaluation: evaluation?.graph }, sizes)
  const flops = flopsOf(exact.graph)
  const weights = data.reduce((sum, { weight }) => sum + weight, 0)
  return {
    stage: config.stage,
    steps,
    samplesPerStep: accumulate * mean(samples),
    data: data.map(({ file, task, weight }, index) => {
      const items = counts[index] ?? 0
      return { file, task, items, passes: (steps * accumulate * batchSize * weight) / weights / items }
    }),
    dimensions: Object.keys(sizes[0] ?? {}).map((name) => {
      const values = sizes.map((dims) => dims[name] ?? 0)
      return { name, mean: mean(values), largest: Math.max(...values) }
    }),
    parameters: parametersByRole(training),
    // integer products do the same work as those that they stand for
    flopsPerStep: accumulate * mean(sizes.map(flops)),
    memoryMiB,
    memoryMode: chooseMemoryMode(config, memoryMiB),
  }
}

const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length

/** A base of the right shape, without weights. */
async function shapeOfBase(source: WeightSource, { vocabulary, baseVocabulary }: LoadBaseOptions): Promise<BaseModel> {
  const config = parseDecoderConfig(source.config)
  return { config, weights: new Map(), vocabulary, baseVocabulary, embeddingNorm: 1, fingerprint: '' }
}

/** The mode of a run of stages 1 and 1_2 that is about to start. Looks at the data only where a budget asks for it. */
export async function memoryModeOf(config: StageConfig): Promise<'fast' | 'saving'> {
  if (config.memoryMode !== undefined || config.memoryBudgetMiB === undefined) return config.memoryMode ?? 'fast'
  return (await planStage(config)).memoryMode
}

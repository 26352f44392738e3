import { openWeights } from '../../src/checkpoint/weights.ts'
import { type BaseModel, loadBase } from '../../src/clara/base.ts'
import { MEMORY_ROWS } from '../../src/clara/compressor.ts'
import { compressorConfig } from '../../src/clara/config.ts'
import { createRandom } from '../../src/data/random.ts'
import { initialAdapter } from '../../src/lora/adapters.ts'
import { parseDecoderConfig } from '../../src/model/config.ts'
import { countFlops } from '../../src/ops/table.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'
import type { TrainableModel } from '../../src/training/model.ts'
import { createMoments } from '../../src/training/optimizer.ts'
import { stage1Graph } from '../../src/training/stages/graph.ts'
import { openStage1Layerwise } from '../../src/training/stages/layerwise.ts'
import { graphOptions, openStage1, type Stage1ModelOptions, type StageBatch } from '../../src/training/stages/stage1.ts'
import { type StepConfig, trainStep } from '../../src/training/step.ts'
import { inTurn, median, medianOf } from '../measure.ts'
import { matmulProbe } from './machine.ts'
import { memoryRows } from './models.ts'
import type { TrainingSizes } from './sizes.ts'

const stepConfig: StepConfig = {
  seed: 1,
  steps: 1000,
  accumulate: 1,
  learningRate: 1e-4,
  learningRateFactors: {},
  schedule: 'cosine',
  warmup: 0.03,
  minimumLearningRateFactor: 0.1,
  betas: [0.9, 0.95],
  epsilon: 1e-8,
  weightDecay: 0,
  clip: 1,
}

/** A step of stage 1 with the published compressor (memory tokens, all layers), trained as the recipes do: rank 16, no dropout. */
async function stage1Workload(
  basePath: string,
  sizes: TrainingSizes,
): Promise<{ options: Omit<Stage1ModelOptions, 'runtime'>; batch: StageBatch }> {
  const { documentPositions, promptPositions, memoryTokens, labels } = sizes
  await using source = await openWeights(basePath)
  const baseVocabulary = parseDecoderConfig(source.config).vocab_size
  const base = await loadBase(source, { baseVocabulary, vocabulary: baseVocabulary + memoryTokens })
  const random = createRandom(1)
  const ids = (length: number) => Array.from({ length }, () => random.int(baseVocabulary))
  const slots = Array.from({ length: memoryTokens }, (_, slot) => baseVocabulary + slot)
  const documents = Array.from({ length: sizes.batchSize }, () => ({
    ids: [...ids(documentPositions - memoryTokens), ...slots],
    text: [2, documentPositions - memoryTokens - 1] as const,
    memoryTokens,
  }))
  const rows = documents.map((_, document) => {
    const firstLabel = promptPositions - labels
    const prompt = [...ids(firstLabel - memoryTokens), ...slots, ...ids(labels)]
    return {
      ids: prompt,
      positions: prompt.map((_, index) => index),
      segments: prompt.map(() => 0),
      labels: prompt.slice(firstLabel).map((target, index) => ({ position: firstLabel + index - 1, target })),
      documents: [document],
    }
  })
  return { options: workloadOptions(base, sizes, baseVocabulary), batch: { documents, rows, rate: 1 } }
}

function workloadOptions(
  base: BaseModel,
  sizes: TrainingSizes,
  baseVocabulary: number,
): Omit<Stage1ModelOptions, 'runtime'> {
  const random = createRandom(2)
  const lora = { rank: 16, alpha: 32 }
  return {
    base,
    lora,
    pooling: { config: compressorConfig.parse({}), fixedCount: sizes.memoryTokens },
    memoryTokens: sizes.memoryTokens,
    firstMemoryToken: baseVocabulary,
    padId: 0,
    positions: Math.max(sizes.documentPositions, sizes.promptPositions),
    dropout: 0,
    mseWeight: 0.1,
    parameters: new Map([
      ...initialAdapter(base.config, lora, 'encoder_adapter', random.uniform),
      ...initialAdapter(base.config, lora, 'decoder_adapter', random.uniform),
      [MEMORY_ROWS, memoryRows(base, sizes.memoryTokens, random)],
    ]),
  }
}

/** Floating-point operations of one step's matrix products, counted from the graph. */
function stepFlops(options: Omit<Stage1ModelOptions, 'runtime'>, { batchSize, ...sizes }: TrainingSizes): number {
  return countFlops(stage1Graph(graphOptions(options as Stage1ModelOptions)).graph, {
    documents: batchSize,
    documentLength: sizes.documentPositions,
    memories: batchSize * sizes.memoryTokens,
    batch: batchSize,
    length: sizes.promptPositions,
    labels: batchSize * sizes.labels,
  })
}

/** One update after another: forward, backward, clipping and AdamW. */
function stepper(model: TrainableModel<StageBatch>, batch: StageBatch): () => Promise<unknown> {
  const moments = createMoments(model.parameters)
  const batches = { next: () => batch, state: () => null, restore: () => {} }
  let step = 0
  return () => trainStep({ model, batches, moments, config: stepConfig, step: ++step })
}

export interface TrainingFigures {
  readonly efficiency: number
  readonly secondsPerSample: number
  readonly gflopPerSample: number
}

/** How much of the matrix products' peak a step of stage 1 reaches, all else that it does included. */
export async function measureTraining(
  runtime: Runtime,
  options: {
    readonly base: string
    readonly sizes: TrainingSizes
    readonly matmulSize: number
    readonly repetitions: number
  },
): Promise<{ peakGflops: number; training: TrainingFigures }> {
  const { sizes, repetitions } = options
  const workload = await stage1Workload(options.base, sizes)
  const flops = stepFlops(workload.options, sizes)
  const model = await openStage1({ runtime, ...workload.options })
  try {
    await using probe = await matmulProbe(runtime, options.matmulSize)
    const times = await inTurn(repetitions, { step: stepper(model, workload.batch), peak: probe.run })
    return {
      peakGflops: probe.work / median(times.peak) / 1e6,
      training: {
        efficiency: medianOf(times, ({ step, peak }) => flops / step / (probe.work / peak)),
        secondsPerSample: median(times.step) / 1000 / sizes.batchSize,
        gflopPerSample: flops / sizes.batchSize / 1e9,
      },
    }
  } finally {
    await model.close()
  }
}

/** Trains a few steps in the memory-saving mode and nothing else: for a process whose memory is measured. */
export async function trainInLittleMemory(
  base: string,
  sizes: TrainingSizes,
  threads: number,
  steps: number,
): Promise<void> {
  await using runtime = await openRuntime({ threads })
  const workload = await stage1Workload(base, sizes)
  const step = stepper(await openStage1Layerwise({ runtime, ...workload.options }), workload.batch)
  for (let index = 0; index < steps; index++) await step()
}

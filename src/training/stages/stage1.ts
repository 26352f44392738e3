import type { BaseModel } from '../../clara/base.ts'
import {
  compressorBatch,
  type EncodedDocument,
  type Feeds,
  type GeneratorRow,
  generatorBatch,
  type PoolingOptions,
} from '../../clara/batch.ts'
import { float32, type HostTensor } from '../../graph/dtype.ts'
import type { LoraSize } from '../../lora/adapters.ts'
import { linearWeightNames } from '../../model/config.ts'
import { frozenWeights } from '../../model/frozen.ts'
import type { Runtime, Session } from '../../runtime/runtime.ts'
import type { TrainableModel } from '../model.ts'
import { type DistillationOptions, teacherFeeds, teacherWeights } from './distillation.ts'
import { dropoutLength, type Stage1Options, stage1Graph } from './graph.ts'

/** What one step of stage 1 or 1_2 learns from: documents, and prompts that read their memories. */
export interface StageBatch {
  readonly documents: readonly EncodedDocument[]
  readonly rows: readonly GeneratorRow[]
  /** Text positions per memory token in this batch. */
  readonly rate: number
  /** Each row's prompts with the documents' text in the place of their memory, for distillation; undefined for rows without. */
  readonly textRows?: readonly (GeneratorRow | undefined)[]
}

export interface Stage1ModelOptions {
  readonly runtime: Runtime
  readonly base: BaseModel
  readonly lora: LoraSize
  readonly pooling: Omit<PoolingOptions, 'rate'>
  readonly memoryTokens: number
  readonly firstMemoryToken: number
  readonly padId: number
  /** Longest sequence, of either side. */
  readonly positions: number
  /** Probability that an element entering a low-rank update is dropped. */
  readonly dropout: number
  /** λ of the MSE term. */
  readonly mseWeight: number
  /** How the base's linear layers are held while training. Default: fp32. */
  readonly frozenWeights?: 'fp32' | 'int8' | undefined
  /** Learn from a reader of the full text as well. Default: not. */
  readonly distillation?: DistillationOptions | undefined
  /** Current values by name; the trainer updates them in place. */
  readonly parameters: ReadonlyMap<string, HostTensor>
}

/** What shapes a stage's graph and its inputs. */
export type StageShape = Omit<Stage1ModelOptions, 'runtime' | 'parameters'>

/** The graphs' side of the model's options. */
export const graphOptions = (options: StageShape): Stage1Options => ({
  config: options.base.config,
  vocabulary: options.base.vocabulary,
  positions: options.positions,
  lora: options.lora,
  compressor: {
    config: options.pooling.config,
    memoryTokens: options.memoryTokens,
    embeddingNorm: options.base.embeddingNorm,
  },
  firstMemoryToken: options.firstMemoryToken,
  dropout: options.dropout > 0,
  distillation: options.distillation,
})

/** All inputs but the parameters. */
export function stageFeeds(batch: StageBatch, options: StageShape, labelWeight: number): Feeds {
  const { feeds, memoryCounts } = compressorBatch(batch.documents, options.padId, {
    ...options.pooling,
    rate: batch.rate,
  })
  const { firstMemoryToken, memoryTokens, padId } = options
  const isMemory = (id: number) => id >= firstMemoryToken && id < firstMemoryToken + memoryTokens
  return { ...feeds, ...generatorBatch(batch.rows, { padId, isMemory, memoryCounts, labelWeight }) }
}

/** Positions of a batch that carry a label. */
export const labelCount = (batch: StageBatch) => batch.rows.reduce((sum, row) => sum + row.labels.length, 0)

/** Stage 1 and 1_2 behind the trainer's interface. */
export async function openStage1(
  options: Stage1ModelOptions,
): Promise<TrainableModel<StageBatch> & { readonly session: Session; close(): Promise<void> }> {
  const int8 = options.frozenWeights === 'int8'
  const training = stage1Graph({ ...graphOptions(options), int8 })
  const { distillation } = options
  const own = int8 ? await roundedBase(options) : options.base.weights
  const weights = distillation?.teacher ? new Map([...own, ...teacherWeights(distillation.teacher)]) : own
  const session = await options.runtime.open(training.model, weights)
  const arrays = new Map(
    training.parameters.map((name) => [name, parameterOf(options.parameters, name).data as Float32Array]),
  )
  return {
    session,
    parameters: arrays,
    labelledTokens: labelCount,
    samples: (batch) => batch.rows.length,
    async lossAndGradients(batch, { normaliser, share, seed }) {
      const feeds: Feeds = stageFeeds(batch, options, 1 / normaliser)
      for (const name of training.parameters) feeds[name] = parameterOf(options.parameters, name)
      feeds['mseWeight'] = float32([options.mseWeight * share], [1])
      if (distillation) {
        Object.assign(feeds, teacherFeeds(batch.rows, batch.textRows ?? [], options.padId, 1 / normaliser))
      }
      if (options.dropout > 0) feeds['dropout'] = dropoutFactors(feeds, options, seed)
      const results = await session.run(feeds)
      const gradients = new Map(
        training.parameters.map((name) => [name, results[`grad:${name}`]?.data as Float32Array]),
      )
      const term = (name: string) => Number(results[name]?.data[0])
      const terms: Record<string, number> = { crossEntropy: term('crossEntropy') }
      if (results['divergence']) terms['divergence'] = term('divergence')
      if (results['mse']) terms['mse'] = term('mse') * share
      return { loss: term('loss'), terms, gradients }
    },
    close: () => session.close(),
  }
}

/** The base with its linear layers in 8 bits. */
export async function roundedBase({
  runtime,
  base,
}: Pick<Stage1ModelOptions, 'runtime' | 'base'>): Promise<Map<string, HostTensor>> {
  const names = new Set(linearWeightNames(base.config))
  const linears = [...base.weights].filter(([name]) => names.has(name))
  const others = [...base.weights].filter(([name]) => !names.has(name))
  return new Map([...others, ...(await frozenWeights(runtime, new Map(linears)))])
}

/** The forward pass alone: losses by label for evaluation. */
export async function openStage1Evaluation(options: Stage1ModelOptions): Promise<{
  /** Mean negative log-likelihood of all labels, in nats. */
  loss(batch: StageBatch): Promise<number>
  /** Every output of the evaluation graph for a batch. */
  outputs(batch: StageBatch): Promise<Record<string, HostTensor>>
  close(): Promise<void>
}> {
  const evaluation = stage1Graph(graphOptions(options), false)
  const session = await options.runtime.open(evaluation.model, options.base.weights)
  const run = (batch: StageBatch, fetch?: readonly string[]) => {
    const feeds: Feeds = stageFeeds(batch, options, 1 / labelCount(batch))
    for (const name of evaluation.parameters) feeds[name] = parameterOf(options.parameters, name)
    feeds['mseWeight'] = float32([options.mseWeight], [1])
    return session.run(feeds, fetch ? { fetch } : {})
  }
  return {
    loss: async (batch) => Number((await run(batch, ['crossEntropy']))['crossEntropy']?.data[0]),
    outputs: (batch) => run(batch),
    close: () => session.close(),
  }
}

/** The current value of a parameter. */
export function parameterOf(parameters: ReadonlyMap<string, HostTensor>, name: string): HostTensor {
  const value = parameters.get(name)
  if (!value) throw new RangeError(`The parameter '${name}' has no value.`)
  return value
}

/** 0 with probability `dropout`, else 1 / (1 - dropout): xorshift32 from the step's seed, so that a resumed run repeats it. */
export function dropoutFactors(feeds: Feeds, { base, dropout }: Stage1ModelOptions, seed: number): HostTensor {
  const rows = Math.max(feeds['ids']?.data.length ?? 0, feeds['promptIds']?.data.length ?? 0)
  const factors = new Float32Array(dropoutLength(base.config, rows))
  const kept = 1 / (1 - dropout)
  const threshold = Math.round(dropout * 2 ** 32)
  let state = (seed | 0) === 0 ? 1 : seed | 0
  for (let index = 0; index < factors.length; index++) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    factors[index] = state >>> 0 < threshold ? 0 : kept
  }
  return float32(factors, [factors.length])
}

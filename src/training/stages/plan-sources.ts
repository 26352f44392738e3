import type { EncodedDocument, Feeds } from '../../clara/batch.ts'
import { loraSize } from '../../clara/config.ts'
import type { Memory } from '../../clara/encoder.ts'
import { readModelFile } from '../../clara/model-folder.ts'
import { float32 } from '../../graph/dtype.ts'
import type { BatchSource } from '../model.ts'
import { stageBatches } from './batches.ts'
import { retrievalOf, type StageConfig } from './config.ts'
import { type DistillationOptions, teacherFeeds } from './distillation.ts'
import { dropoutLength, stage1Graph, type TrainingGraph } from './graph.ts'
import type { StageTools } from './material.ts'
import { type ReadingBatch, readingFeeds, readingGraph } from './reading.ts'
import { readReasonings } from './reasoning.ts'
import { type RetrievalBatch, type RetrievalShape, retrievalFeeds, retrievalGraphOptions } from './retrieval.ts'
import { assembledSource, assembly, retrievalPlans } from './retrieval-batches.ts'
import { createCorpus, readQuestions } from './retrieval-data.ts'
import { retrievalGraph } from './retrieval-graph.ts'
import { reasoningAssembly, reasoningSource } from './run-reasoning.ts'
import { stageShape } from './set-up.ts'
import { graphOptions, type StageBatch, stageFeeds } from './stage1.ts'

/** Whether frozen weights are in 8 bits, and whether the graph goes back to the parameters. */
export interface GraphKind {
  readonly int8: boolean
  readonly withGradients: boolean
}

/** How a stage's steps are fed, and through what graph. */
export interface StepSource<Batch> {
  /** The graph of a step, or that of an evaluation. */
  graphOf(kind: GraphKind): TrainingGraph
  readonly batches: BatchSource<Batch>
  /** Items of each of the run's files. */
  readonly counts: readonly number[]
  /** Inputs of the graph without the parameters; only their sizes mean something. */
  feeds(batch: Batch): Feeds
  samplesOf(batch: Batch): number
}

/** Stages 1 and 1_2. */
export async function stage1Steps(config: StageConfig, tools: StageTools): Promise<StepSource<StageBatch>> {
  const { batches, counts } = await stageBatches(config, tools.optionsAt)
  const shape = { ...stageShape(config, tools, undefined), distillation: await distillationShape(config) }
  return {
    graphOf: ({ int8, withGradients }) => stage1Graph({ ...graphOptions(shape), int8 }, withGradients),
    batches,
    counts,
    feeds: (batch) => {
      const own = withDropout(stageFeeds(batch, shape, 1), config, tools)
      if (!shape.distillation) return own
      return { ...own, ...teacherFeeds(batch.rows, batch.textRows ?? [], shape.padId, 1) }
    },
    samplesOf: ({ rows }) => rows.length,
  }
}

/** Stages 1 and 1_2 without memory. */
export async function controlSteps(config: StageConfig, tools: StageTools): Promise<StepSource<StageBatch>> {
  const { batches, counts } = await stageBatches(config, tools.optionsAt)
  const shape = stageShape(config, tools, undefined)
  return {
    graphOf: ({ int8, withGradients }) => readingGraph({ ...graphOptions(shape), int8 }, withGradients),
    batches,
    counts,
    feeds: ({ rows }) => withDropout(readingFeeds({ memories: [], rows }, shape, 1), config, tools),
    samplesOf: ({ rows }) => rows.length,
  }
}

/** The settings of distillation with the teacher's shape, without its numbers. */
async function distillationShape({ distillation }: StageConfig): Promise<DistillationOptions | undefined> {
  if (!distillation) return undefined
  const { weight, temperature, teacher } = distillation
  if (teacher === undefined) return { weight, temperature }
  const { clara } = await readModelFile(teacher)
  return { weight, temperature, teacher: { lora: loraSize(clara), adapter: new Map() } }
}

/** Stage 2 and retrieval pretraining. */
export async function retrievalSteps(config: StageConfig, tools: StageTools): Promise<StepSource<RetrievalBatch>> {
  const settings = retrievalOf(config)
  const objective = config.stage === 'stage2' ? 'answer' : 'contrastive'
  const [rate = 1] = config.compressionRates
  const corpus = createCorpus(tools.optionsAt(rate))
  const reading = { corpus, samples: tools.optionsAt(rate), labelled: objective === 'contrastive' }
  const files = await Promise.all(config.data.map((file) => readQuestions(file, reading)))
  const assemble = assembly({
    corpus,
    settings,
    fill: settings.negatives === 'dataset' ? 0 : settings.poolSize,
    inBatch: settings.inBatch ?? objective === 'contrastive',
    objective,
    optionsAt: tools.optionsAt,
    bankAt: emptyBanks(tools),
  })
  const { topK, temperature, projection: projected } = settings
  const shape: RetrievalShape = { ...stageShape(config, tools, undefined), objective, topK, temperature, projected }
  return {
    graphOf: ({ int8, withGradients }) => retrievalGraph({ ...retrievalGraphOptions(shape), int8 }, withGradients),
    batches: assembledSource(retrievalPlans(config, files), assemble),
    counts: files.map((questions) => questions.length),
    feeds: (batch: Parameters<typeof retrievalFeeds>[0]) => withDropout(retrievalFeeds(batch, shape, 1), config, tools),
    samplesOf: ({ questions }: Parameters<typeof retrievalFeeds>[0]) => questions.length,
  }
}

/** Stage 2 with reasoning. */
export async function reasoningSteps(config: StageConfig, tools: StageTools): Promise<StepSource<ReadingBatch>> {
  const files = await Promise.all(config.data.map(readReasonings))
  const shape = stageShape(config, tools, undefined)
  return {
    graphOf: ({ int8, withGradients }) => readingGraph({ ...graphOptions(shape), int8 }, withGradients),
    batches: reasoningSource(config, files, reasoningAssembly(tools.optionsAt, emptyBanks(tools))),
    counts: files.map((reasonings) => reasonings.length),
    feeds: (batch) => withDropout(readingFeeds(batch, shape, 1), config, tools),
    samplesOf: ({ rows }) => rows.length,
  }
}

/** Memories of the right size, which nobody has computed. */
const emptyBanks = (tools: StageTools) => async (rate: number) => ({
  memories: async (documents: readonly EncodedDocument[]) =>
    documents.map((document) => emptyMemory(document, tools, rate)),
})

function emptyMemory({ text: [start, end], memoryTokens }: EncodedDocument, tools: StageTools, rate: number): Memory {
  const count = memoryTokens > 0 ? memoryTokens : tools.optionsAt(rate).memoryCount(end - start)
  const hidden = tools.base.config.hidden_size
  return { tokens: new Float32Array(count * hidden), shape: [count, hidden] }
}

function withDropout(feeds: Feeds, { lora }: StageConfig, { base }: StageTools): Feeds {
  if (lora.dropout === 0) return feeds
  const rows = Math.max(feeds['ids']?.data.length ?? 0, feeds['promptIds']?.data.length ?? 0)
  return { ...feeds, dropout: float32([], [dropoutLength(base.config, rows)]) }
}

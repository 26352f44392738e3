import {
  compressorBatch,
  type EncodedDocument,
  type Feeds,
  type GeneratorRow,
  generatorBatch,
} from '../../clara/batch.ts'
import type { Memory } from '../../clara/encoder.ts'
import { requirePool } from '../../clara/topk.ts'
import { float32, type HostTensor, int64 } from '../../graph/dtype.ts'
import type { TrainableModel } from '../model.ts'
import { type RetrievalGraphOptions, type RetrievalObjective, retrievalGraph } from './retrieval-graph.ts'
import { dropoutFactors, graphOptions, parameterOf, roundedBase, type Stage1ModelOptions } from './stage1.ts'

/** What one step of stage 2 or of retrieval pretraining learns from. */
export interface RetrievalBatch {
  readonly questions: readonly EncodedDocument[]
  /** Distinct documents of the whole batch, compressed. */
  readonly memories: readonly Memory[]
  /** The documents that each question chooses from, by index. */
  readonly pools: readonly (readonly number[])[]
  /** Those of them that answer it. */
  readonly relevant: readonly (readonly number[])[]
  /** Objective 'answer': a prompt for each question, with room for `topK` documents of the longest memory. */
  readonly rows: readonly GeneratorRow[]
  /** Text positions per memory token. */
  readonly rate: number
}

export interface RetrievalModelOptions extends Stage1ModelOptions {
  readonly objective: RetrievalObjective
  readonly topK: number
  readonly temperature: number
  readonly projected?: boolean
}

/** What shapes the graph and its inputs. */
export type RetrievalShape = Omit<RetrievalModelOptions, 'runtime' | 'parameters'>

/** Memory tokens of the longest document. */
export const longestMemory = (memories: readonly Pick<Memory, 'shape'>[]): number =>
  Math.max(...memories.map(({ shape }) => shape[0]))

/** What a batch is divided by: labels of its answers, or questions with a relevant document. */
export const retrievalLabels = ({ rows, relevant }: RetrievalBatch, objective: RetrievalObjective): number =>
  objective === 'answer'
    ? rows.reduce((sum, row) => sum + row.labels.length, 0)
    : relevant.filter((places) => places.length > 0).length

/** Stages 2 and retrieval pretraining behind the trainer's interface. */
export async function openRetrieval(
  options: RetrievalModelOptions,
): Promise<TrainableModel<RetrievalBatch> & { close(): Promise<void> }> {
  const int8 = options.frozenWeights === 'int8'
  const training = retrievalGraph({ ...retrievalGraphOptions(options), int8 })
  const session = await options.runtime.open(training.model, int8 ? await roundedBase(options) : options.base.weights)
  const names = training.parameters
  return {
    parameters: new Map(names.map((name) => [name, parameterOf(options.parameters, name).data as Float32Array])),
    labelledTokens: (batch) => retrievalLabels(batch, options.objective),
    samples: ({ questions }) => questions.length,
    async lossAndGradients(batch, { normaliser, share, seed }) {
      const feeds = retrievalFeeds(batch, options, 1 / normaliser)
      for (const name of [...names, ...training.frozen]) feeds[name] = parameterOf(options.parameters, name)
      if (options.dropout > 0) feeds['dropout'] = dropoutFactors(feeds, options, seed)
      const results = await session.run(feeds)
      const gradients = new Map(names.map((name) => [name, results[`grad:${name}`]?.data as Float32Array]))
      const loss = Number(results['loss']?.data[0])
      return { loss, terms: { recallAt1: share * recallAtOne(batch, results['scores']) }, gradients }
    },
    close: () => session.close(),
  }
}

/** The forward pass alone, without dropout and in fp32. */
export async function openRetrievalEvaluation(options: RetrievalModelOptions): Promise<{
  /** Every output of the evaluation graph; the loss is the mean over the batch's labels. */
  outputs(batch: RetrievalBatch): Promise<Record<string, HostTensor>>
  close(): Promise<void>
}> {
  const evaluation = retrievalGraph(retrievalGraphOptions(options), false)
  const session = await options.runtime.open(evaluation.model, options.base.weights)
  return {
    outputs(batch) {
      const labels = retrievalLabels(batch, options.objective)
      const feeds = retrievalFeeds(batch, options, labels === 0 ? 0 : 1 / labels)
      for (const name of [...evaluation.parameters, ...evaluation.frozen]) {
        feeds[name] = parameterOf(options.parameters, name)
      }
      return session.run(feeds)
    },
    close: () => session.close(),
  }
}

export const retrievalGraphOptions = (options: RetrievalShape): RetrievalGraphOptions => ({
  ...graphOptions(options),
  objective: options.objective,
  topK: options.topK,
  temperature: options.temperature,
  projected: options.projected ?? false,
})

/** All inputs but the parameters. */
export function retrievalFeeds(batch: RetrievalBatch, options: RetrievalShape, labelWeight: number): Feeds {
  const { objective, padId, firstMemoryToken, memoryTokens, topK, base } = options
  const { questions, memories, pools, relevant, rows } = batch
  const { feeds, memoryCounts } = compressorBatch(questions, padId, { ...options.pooling, rate: batch.rate })
  Object.assign(feeds, queryFeeds(memoryCounts, options), documentFeeds(memories, base.config.hidden_size))
  feeds['inPool'] = members(pools, memories.length)
  if (objective === 'contrastive') {
    const weights = relevant.map((places) => (places.length > 0 ? labelWeight : 0))
    feeds['relevant'] = members(relevant, memories.length)
    feeds['questionWeights'] = float32(weights, [weights.length])
    return feeds
  }
  for (const pool of pools) requirePool(topK, pool.length)
  const isMemory = (id: number) => id >= firstMemoryToken && id < firstMemoryToken + memoryTokens
  const slots = new Array<number>(rows.length * topK).fill(longestMemory(memories))
  Object.assign(feeds, generatorBatch(rows, { padId, isMemory, memoryCounts: slots, labelWeight }))
  const length = feeds['promptIds']?.dims[1] ?? 0
  const earlier = Float32Array.from({ length: length * length }, (_, at) =>
    Number(Math.floor(at / length) < at % length),
  )
  feeds['earlier'] = float32(earlier, [length, length])
  return feeds
}

/** Where each question's memory lies among the rows of all, padded to the longest. */
function queryFeeds(counts: readonly number[], { pooling: { config } }: Pick<RetrievalModelOptions, 'pooling'>): Feeds {
  const longest = Math.max(...counts)
  const dims = [counts.length, longest]
  const rows = new Array<number>(counts.length * longest).fill(0)
  const weights = new Float32Array(rows.length)
  let first = 0
  counts.forEach((count, question) => {
    for (let token = 0; token < count; token++) {
      rows[question * longest + token] = first + token
      weights[question * longest + token] = 1 / count
    }
    first += count
  })
  const feeds: Feeds = { queryRows: int64(rows, dims) }
  if (config.similarity === 'maxsim') feeds['queryWeights'] = float32(weights, dims)
  return feeds
}

/** Memories padded with zeros to the longest, and which of their tokens there are. */
function documentFeeds(memories: readonly Memory[], width: number): Feeds {
  const longest = longestMemory(memories)
  const all = new Float32Array(memories.length * longest * width)
  const present = new Float32Array(memories.length * longest)
  memories.forEach(({ tokens, shape }, index) => {
    all.set(tokens, index * longest * width)
    present.fill(1, index * longest, index * longest + shape[0])
  })
  return {
    documentMemory: float32(all, [1, memories.length, longest, width]),
    documentTokens: float32(present, [memories.length, longest]),
  }
}

/** Rows of ones at the places of each list. */
function members(lists: readonly (readonly number[])[], count: number): HostTensor {
  const table = new Float32Array(lists.length * count)
  lists.forEach((places, row) => {
    for (const place of places) table[row * count + place] = 1
  })
  return float32(table, [lists.length, count])
}

/** Share of the questions whose best document is a relevant one. */
function recallAtOne({ pools, relevant }: RetrievalBatch, scores: HostTensor | undefined): number {
  const [, width = 0] = scores?.dims ?? []
  const at = (row: number, place: number) => Number(scores?.data[row * width + place])
  const found = pools.filter((pool, row) => {
    const best = pool.reduce((first, place) => (at(row, place) > at(row, first) ? place : first), pool[0] ?? 0)
    return relevant[row]?.includes(best)
  })
  return found.length / pools.length
}

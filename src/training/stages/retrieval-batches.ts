import { packPrompts } from '../../clara/batch.ts'
import { answerPrompt, documentSlot, trainingPrompt } from '../../clara/prompts.ts'
import { requirePool } from '../../clara/topk.ts'
import { batchStream } from '../../data/batching.ts'
import { mixture } from '../../data/mixture.ts'
import { createRandom, deriveSeed } from '../../data/random.ts'
import { mapStream, type ResumableStream } from '../../data/stream.ts'
import type { PromptText } from '../../tokenizer/types.ts'
import type { BatchSource } from '../model.ts'
import type { OptionsAtRate } from './batches.ts'
import type { RetrievalSettings, StageConfig } from './config.ts'
import type { MemoryBank } from './memory-bank.ts'
import { longestMemory, type RetrievalBatch } from './retrieval.ts'
import { type Corpus, poolOf, type RetrievalQuestion } from './retrieval-data.ts'
import type { RetrievalObjective } from './retrieval-graph.ts'
import { encodeText } from './samples.ts'

/** What a batch is made from; everything random in it follows from the seed. */
export interface RetrievalPlan {
  readonly questions: readonly RetrievalQuestion[]
  readonly rate: number
  readonly seed: number
}

/** The questions of several files, mixed by weight, as an endless stream of plans. */
export function retrievalPlans(
  config: StageConfig,
  files: readonly (readonly RetrievalQuestion[])[],
): ResumableStream<RetrievalPlan> {
  const { batchSize, seed, compressionRates } = config
  const parts = files.map((questions, index) => {
    const lengths = questions.map(({ question }) => question.length)
    const { file = '', weight = 1 } = config.data[index] ?? {}
    const stream = batchStream({ lengths, batchSize, seed: seed + index })
    const items = mapStream(stream, (indices) => indices.flatMap((at) => questions[at] ?? []))
    return { name: `${index}:${file}`, weight, stream: items }
  })
  return mapStream(mixture({ parts, seed }), ({ item, seed: own }) => {
    const rate = compressionRates[createRandom(own).int(compressionRates.length)] ?? 1
    return { questions: item, rate, seed: own }
  })
}

export interface AssemblyOptions {
  readonly corpus: Corpus
  readonly settings: Pick<RetrievalSettings, 'poolSize' | 'topK'>
  /** Pools are filled up to this size. */
  readonly fill: number
  /** Whether the documents of a batch are candidates of all its questions. */
  readonly inBatch: boolean
  readonly objective: RetrievalObjective
  readonly optionsAt: OptionsAtRate
  readonly bankAt: (rate: number) => Promise<Pick<MemoryBank, 'memories'>>
}

/** Makes a batch of a plan. `hard`: negatives that were mined for each question. */
export type Assemble = (plan: RetrievalPlan, hard?: readonly (readonly number[])[]) => Promise<RetrievalBatch>

export function assembly(options: AssemblyOptions): Assemble {
  const { corpus, settings, fill, inBatch, objective, optionsAt, bankAt } = options
  return async ({ questions, rate, seed }, hard) => {
    const samples = optionsAt(rate)
    const own = questions.map((question, index) =>
      poolOf(question, corpus, {
        size: settings.poolSize,
        fill,
        hard: hard?.[index],
        seed: deriveSeed(seed, index),
      }),
    )
    const numbers = [...new Set(own.flat())]
    const places = new Map(numbers.map((number, place) => [number, place]))
    const placesOf = (list: readonly number[]) => list.flatMap((number) => places.get(number) ?? [])
    const memories = await (await bankAt(rate)).memories(numbers.map((number) => corpus.document(number)))
    const pools = own.map((pool) => placesOf(inBatch ? numbers : pool))
    const relevant = questions.map(({ supporting }, index) =>
      placesOf(supporting).filter((place) => pools[index]?.includes(place)),
    )
    const batch = {
      questions: questions.map(({ question }) => encodeText(question, samples)),
      memories,
      pools,
      relevant,
      rate,
    }
    if (objective === 'contrastive') return { ...batch, rows: [] }
    const { topK } = settings
    for (const pool of pools) requirePool(topK, pool.length)
    const slot = documentSlot({ count: longestMemory(memories), differentMemTokens: samples.differentMemTokens })
    const rows = questions.map(({ question, answers }, index) => {
      const messages = answerPrompt(question, new Array<PromptText>(topK).fill(slot))
      const prompt = trainingPrompt(samples.tokenizer, messages, answers[0] ?? '', samples.maxLength)
      return packPrompts(
        [prompt],
        Array.from({ length: topK }, (_, choice) => index * topK + choice),
      )
    })
    return { ...batch, rows }
  }
}

/** Batches of plans as they come. */
export const assembledSource = (
  plans: ResumableStream<RetrievalPlan>,
  assemble: Assemble,
): BatchSource<RetrievalBatch> => ({
  next: () => assemble(plans.next()),
  state: () => plans.state(),
  restore: (state) => plans.restore(state),
})

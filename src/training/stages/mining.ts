import { z } from 'zod'
import { createRandom, deriveSeed } from '../../data/random.ts'
import type { JsonValue, ResumableStream } from '../../data/stream.ts'
import { ClaraError } from '../../errors.ts'

import type { BatchSource } from '../model.ts'
import type { RetrievalSettings } from './config.ts'
import type { MemoryBank } from './memory-bank.ts'
import { openRetrievalEvaluation, type RetrievalBatch, type RetrievalModelOptions } from './retrieval.ts'
import type { Assemble, RetrievalPlan } from './retrieval-batches.ts'
import { type Corpus, mayAnswer } from './retrieval-data.ts'
import { encodeText, type SampleOptions } from './samples.ts'

/** For each plan, each of its questions' hardest negatives by number, the hardest first. */
type Mined = readonly (readonly (readonly number[])[])[]
export type Mine = (plans: readonly RetrievalPlan[], seed: number) => Promise<Mined>

export interface MinerOptions {
  readonly model: RetrievalModelOptions
  readonly corpus: Corpus
  readonly settings: RetrievalSettings
  readonly optionsAt: (rate: number) => SampleOptions
  readonly bankAt: (rate: number) => Promise<MemoryBank>
}

/** Documents that are scored together, and questions that score them. */
const DOCUMENTS = 256
const QUESTIONS = 32

/**
 * Finds the documents that the query reasoner, as it is now, takes for the nearest although they do not answer: among texts
 * drawn from the corpus and the question's own candidates.
 */
export async function openMiner({ model, corpus, settings, optionsAt, bankAt }: MinerOptions): Promise<Mine> {
  const scorer = await openRetrievalEvaluation({ ...model, objective: 'contrastive' })

  const minePlan = async ({ questions, rate }: RetrievalPlan, drawn: readonly number[]) => {
    const numbers = [...new Set([...drawn, ...questions.flatMap(({ others }) => others)])]
    const bank = await bankAt(rate)
    const encoded = questions.map(({ question }) => encodeText(question, optionsAt(rate)))
    const scores = questions.map(() => new Float32Array(numbers.length))
    for (let start = 0; start < numbers.length; start += DOCUMENTS) {
      const part = numbers.slice(start, start + DOCUMENTS)
      const memories = await bank.memories(part.map((number) => corpus.document(number)))
      const all = memories.map((_, place) => place)
      const batch = { memories, pools: questions.map(() => all), relevant: questions.map(() => []), rows: [], rate }
      const { scores: found } = await scorer.outputs({ ...batch, questions: encoded })
      const table = found?.data as Float32Array
      questions.forEach((_, row) => {
        scores[row]?.set(table.subarray(row * part.length, (row + 1) * part.length), start)
      })
    }
    return questions.map((question, row) =>
      numbers
        .map((number, place) => ({ number, score: scores[row]?.[place] ?? 0 }))
        // what the dataset itself calls no answer is believed
        .filter(({ number }) => question.others.includes(number) || !mayAnswer(question, number, corpus))
        .sort((left, right) => right.score - left.score)
        .slice(0, settings.poolSize)
        .map(({ number }) => number),
    )
  }

  return async (plans, seed) => {
    const random = createRandom(seed)
    const all = random.shuffle(corpus.texts.map((_, number) => number))
    const drawn = all.slice(0, settings.mineAmong)
    const mined: (readonly number[])[][] = plans.map(() => [])
    // questions of several plans score the same documents at once
    for (const group of groupsOf(plans)) {
      const [first] = group
      if (!first) continue
      const joined = { ...first.plan, questions: group.flatMap(({ plan }) => plan.questions) }
      const found = await minePlan(joined, drawn)
      for (const { plan, index } of group) mined[index] = found.splice(0, plan.questions.length)
    }
    return mined
  }
}

/** Neighbouring plans of one rate, with about as many questions as are scored together. */
function groupsOf(plans: readonly RetrievalPlan[]) {
  const groups: { readonly plan: RetrievalPlan; readonly index: number }[][] = []
  for (const rate of new Set(plans.map((plan) => plan.rate))) {
    let questions = Number.POSITIVE_INFINITY
    for (const [index, plan] of plans.entries()) {
      if (plan.rate !== rate) continue
      if (questions + plan.questions.length > QUESTIONS) {
        groups.push([])
        questions = 0
      }
      groups.at(-1)?.push({ plan, index })
      questions += plan.questions.length
    }
  }
  return groups
}

const numbers = z.array(z.array(z.array(z.number().int().nonnegative())))
const minedState = z.strictObject({ start: z.json(), mined: numbers, served: z.number().int().nonnegative() })

/**
 * Batches with mined negatives: every so many batches it looks ahead at the plans of the next ones and mines for all their
 * questions. What was mined is part of the state, so that a run that resumes between two minings goes on with the same.
 */
export function minedSource(options: {
  readonly plans: ResumableStream<RetrievalPlan>
  readonly assemble: Assemble
  readonly mine: Mine
  /** Batches between minings. */
  readonly every: number
  readonly seed: number
}): BatchSource<RetrievalBatch> {
  const { plans, assemble, mine, every, seed } = options
  let start: JsonValue = plans.state()
  let ahead: readonly RetrievalPlan[] = []
  let mined: Mined = []
  let served = 0
  const look = (count: number) => Array.from({ length: count }, () => plans.next())
  return {
    async next() {
      if (served === ahead.length) {
        start = plans.state()
        ahead = look(every)
        mined = await mine(ahead, deriveSeed(seed, ahead[0]?.seed ?? 0))
        served = 0
      }
      const plan = ahead[served]
      if (!plan) throw new RangeError('No plan is left.')
      const hard = mined[served]
      served += 1
      return assemble(plan, hard)
    },
    state: () => ({ start, mined: mined.map((plan) => plan.map((row) => [...row])), served }),
    restore(state) {
      const saved = minedState.safeParse(state)
      if (!saved.success) {
        throw new ClaraError('The saved position in the training data belongs to a run without mined negatives.', {
          hint: 'Resume with the settings that the run was started with.',
        })
      }
      start = saved.data.start as JsonValue
      plans.restore(start)
      mined = saved.data.mined
      ahead = look(mined.length)
      served = saved.data.served
    },
  }
}

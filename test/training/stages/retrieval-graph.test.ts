import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { packPrompts } from '../../../src/clara/batch.ts'
import { reasonersParameter } from '../../../src/clara/compressor.ts'
import type { Memory } from '../../../src/clara/encoder.ts'
import { answerPrompt, documentSlot, trainingPrompt } from '../../../src/clara/prompts.ts'
import { memorySimilarity } from '../../../src/clara/similarity.ts'
import { hardTopK } from '../../../src/clara/topk.ts'
import { createRandom } from '../../../src/data/random.ts'
import { openRuntime, type Runtime } from '../../../src/runtime/runtime.ts'
import { openReadingEvaluation } from '../../../src/training/stages/reading.ts'
import {
  openRetrieval,
  openRetrievalEvaluation,
  type RetrievalBatch,
  type RetrievalModelOptions,
} from '../../../src/training/stages/retrieval.ts'
import { encodeText } from '../../../src/training/stages/samples.ts'
import { type TinyModel, tinyModel } from '../../clara/tiny.ts'
import { salient } from './tiny-run.ts'

let runtime: Runtime
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
})
afterAll(() => runtime.close())

const asked = ['Which bridges were closed in the city?', 'Who rowed?', 'How long did the rain fall over the hills?']
const topK = 2

/** A model with a query reasoner of its own, and a batch of three questions over seven memories of unequal length. */
async function setUp(architecture: 'mistral-1' | 'llama-3' | 'qwen3-4', dropout = 0) {
  const tiny = await tinyModel(runtime, { architecture, compressor: salient })
  const random = createRandom(3)
  const parameters = new Map(tiny.options.parameters)
  for (const [name, { dtype, dims, data }] of tiny.options.parameters) {
    const own = reasonersParameter(name)
    if (own === undefined) continue
    const values = Float32Array.from(data as Float32Array, (value) => value + 0.02 * random.normal())
    parameters.set(own, { dtype, dims, data: values })
  }
  const width = tiny.base.config.hidden_size
  const memories = [3, 1, 4, 2, 4, 1, 3].map((count): Memory => {
    const tokens = Float32Array.from({ length: count * width }, () => 0.3 * random.normal())
    return { tokens, shape: [count, width] }
  })
  const batch: RetrievalBatch = {
    questions: asked.map((question) => encodeText(question, tiny.samples)),
    memories,
    pools: [
      [0, 1, 2, 3],
      [3, 4, 5],
      [6, 0, 5, 2, 1],
    ],
    relevant: [[1], [], [0, 5]],
    rows: asked.map((question, index) => row(tiny, question, [4, 4], [index * topK, index * topK + 1])),
    rate: tiny.rate,
  }
  const options: RetrievalModelOptions = {
    ...tiny.options,
    dropout,
    parameters,
    objective: 'answer',
    topK,
    temperature: 0.02,
  }
  return { tiny, options, batch, width }
}

/** A prompt over documents of so many memory tokens each. */
function row({ samples }: TinyModel, question: string, counts: readonly number[], documents: readonly number[]) {
  const slots = counts.map((count) => documentSlot({ count, differentMemTokens: false }))
  const prompt = trainingPrompt(samples.tokenizer, answerPrompt(question, slots), `the ${question}`, 400)
  return packPrompts([prompt], documents)
}

describe('stage 2 in a graph', () => {
  test.each(['mistral-1', 'llama-3', 'qwen3-4'] as const)(
    'chooses by the similarity that is defined on numbers, and reads the chosen memories as if there was no padding: %s',
    async (architecture) => {
      const { tiny, options, batch, width } = await setUp(architecture)
      const retrieval = await openRetrievalEvaluation(options)
      const results = await retrieval.outputs(batch)
      const reading = await openReadingEvaluation(options)

      const query = results['query']?.data as Float32Array
      const [, tokens = 0] = results['query']?.dims ?? []
      const scores = batch.questions.map(({ text: [from, to] }, index) => {
        const count = Math.ceil((to - from) / tiny.rate)
        const own = query.slice(index * tokens * width, (index * tokens + count) * width)
        return batch.memories.map((memory) => memorySimilarity('maxsim', own, memory.tokens, width) / count)
      })
      const found = Array.from(results['scores']?.data ?? [], Number)
      const chosen = batch.pools.map((pool, index) => {
        pool.forEach((place) => {
          expect(found[index * batch.memories.length + place]).toBeCloseTo(scores[index]?.[place] ?? 0, 4)
        })
        return hardTopK(
          pool.map((place) => scores[index]?.[place] ?? 0),
          topK,
        ).map((place) => pool[place] ?? -1)
      })
      expect(Array.from(results['indices']?.data ?? [], Number)).toEqual(chosen.flat())

      const counts = chosen.map((places) => places.map((place) => batch.memories[place]?.shape[0] ?? 0))
      // or no slot would have been padded
      expect(counts.flat().some((count) => count < 4)).toBe(true)
      const exact = await reading.outputs({
        memories: batch.memories,
        rows: asked.map((question, index) => row(tiny, question, counts[index] ?? [], chosen[index] ?? [])),
      })
      const [nll, expected] = [results['nll']?.data ?? [], exact['nll']?.data ?? []]
      expect(nll.length).toBe(expected.length)
      Array.from(expected, Number).forEach((value, at) => {
        expect(Number(nll[at])).toBeCloseTo(value, 4)
      })
      await retrieval.close()
      await reading.close()
    },
  )

  test('refuses a pool that is smaller than topK', async () => {
    const { options, batch } = await setUp('mistral-1')
    const model = await openRetrieval(options)
    const small = { ...batch, pools: [[0, 1], [3], [6, 0]] }
    await expect(model.lossAndGradients(small, { normaliser: 1, share: 1, seed: 0 })).rejects.toThrow(
      /Cannot choose the 2 best of 1 documents/,
    )
    await model.close()
  })
})

describe('the contrastive loss', () => {
  test('is that of its definition, over the questions with a relevant document; gradients as finite differences', async () => {
    const { options, batch } = await setUp('mistral-1')
    const contrastive = { ...options, objective: 'contrastive', temperature: 0.1 } as const
    const model = await openRetrieval(contrastive)
    expect(model.labelledTokens(batch)).toBe(2)
    const lossOf = async () => (await model.lossAndGradients(batch, { normaliser: 2, share: 1, seed: 0 })).loss
    const { loss, gradients } = await model.lossAndGradients(batch, { normaliser: 2, share: 1, seed: 0 })

    const evaluation = await openRetrievalEvaluation(contrastive)
    const results = await evaluation.outputs(batch)
    const score = (index: number, place: number) =>
      Math.exp(Number(results['scores']?.data[index * batch.memories.length + place]) / 0.1)
    const total = (index: number, places: readonly number[]) =>
      places.reduce((sum, place) => sum + score(index, place), 0)
    const terms = batch.pools.map(
      (pool, index) => -Math.log(total(index, batch.relevant[index] ?? []) / total(index, pool)),
    )
    expect(loss).toBeCloseTo(((terms[0] ?? 0) + (terms[2] ?? 0)) / 2, 4)

    expect([...gradients.keys()].every((name) => name.includes('.query_reasoner_adapter.'))).toBe(true)
    // along the gradient itself, where the change of the loss is largest
    const norm = Math.hypot(...[...gradients.values()].flatMap((values) => [...values]))
    const move = (size: number) => {
      for (const [name, values] of gradients) {
        const parameter = model.parameters.get(name)
        values.forEach((value, at) => {
          if (parameter) parameter[at] = (parameter[at] ?? 0) + (size * value) / norm
        })
      }
    }
    const step = 2e-3
    move(step)
    const above = await lossOf()
    move(-2 * step)
    const below = await lossOf()
    expect((above - below) / (2 * step) / norm).toBeCloseTo(1, 1)
    await model.close()
    await evaluation.close()
  })

  test('stays finite where the relevant document is hopeless', async () => {
    const { options, batch } = await setUp('mistral-1')
    const model = await openRetrieval({ ...options, objective: 'contrastive', temperature: 1e-4 })
    const { loss, gradients } = await model.lossAndGradients(batch, { normaliser: 2, share: 1, seed: 0 })
    expect(Number.isFinite(loss)).toBe(true)
    for (const values of gradients.values()) expect(values.every(Number.isFinite)).toBe(true)
    await model.close()
  })
})

test.each(['answer', 'contrastive'] as const)(
  'two micro-batches give the gradient of one batch: %s',
  async (objective) => {
    const { options, batch } = await setUp('mistral-1')
    const model = await openRetrieval({ ...options, objective, temperature: 0.1 })
    const normaliser = model.labelledTokens(batch)
    const whole = await model.lossAndGradients(batch, { normaliser, share: 1, seed: 0 })
    const parts = await Promise.all(
      [[0], [1, 2]].map((indices) => {
        const pick = <Item>(list: readonly Item[]) => indices.flatMap((index) => list[index] ?? [])
        const rows = indices.flatMap((index, place) => {
          const own = batch.rows[index]
          return own ? [{ ...own, documents: [place * topK, place * topK + 1] }] : []
        })
        const pools = indices.map((index) => batch.pools[index] ?? [])
        const relevant = indices.map((index) => batch.relevant[index] ?? [])
        const part = { ...batch, questions: pick(batch.questions), pools, relevant, rows }
        return model.lossAndGradients(part, { normaliser, share: indices.length / 3, seed: 0 })
      }),
    )
    expect(parts.reduce((sum, part) => sum + part.loss, 0)).toBeCloseTo(whole.loss, 4)
    for (const [name, values] of whole.gradients) {
      const largest = Math.max(...values.map(Math.abs))
      values.forEach((value, at) => {
        const sum = parts.reduce((total, part) => total + (part.gradients.get(name)?.[at] ?? 0), 0)
        expect(Math.abs(sum - value)).toBeLessThan(1e-4 * largest + 1e-7)
      })
    }
    await model.close()
  },
)

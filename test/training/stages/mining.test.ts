import { afterAll, beforeAll, expect, test } from 'vitest'
import { reasonersParameter } from '../../../src/clara/compressor.ts'
import type { Memory } from '../../../src/clara/encoder.ts'
import { memorySimilarity } from '../../../src/clara/similarity.ts'
import { openRuntime, type Runtime } from '../../../src/runtime/runtime.ts'
import { retrievalSettings } from '../../../src/training/stages/config.ts'
import { openMiner } from '../../../src/training/stages/mining.ts'
import { openRetrievalEvaluation } from '../../../src/training/stages/retrieval.ts'
import { createCorpus, mayAnswer, poolOf, type RetrievalQuestion } from '../../../src/training/stages/retrieval-data.ts'
import { encodeText } from '../../../src/training/stages/samples.ts'
import { tinyModel } from '../../clara/tiny.ts'
import { salient } from './tiny-run.ts'

let runtime: Runtime
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
})
afterAll(() => runtime.close())

/** As many texts as do not fit one scoring, of unequal length; every tenth names the answer. */
const texts = Array.from({ length: 300 }, (_, index) => {
  const words = Array.from({ length: 1 + (index % 7) }, (_, word) => `w${(index * 7 + word * 3) % 50}`)
  return `${index}: ${words.join(' ')}${index % 10 === 0 ? ' in Bergen' : ''}`
})

test('mines the texts that the question is nearest to, less those that may answer it', async () => {
  const { options, samples, rate, base } = await tinyModel(runtime, { compressor: salient })
  const parameters = new Map(options.parameters)
  for (const [name, value] of options.parameters) {
    parameters.set(reasonersParameter(name) ?? name, value)
  }
  const model = { ...options, parameters, objective: 'contrastive', topK: 1, temperature: 0.02 } as const
  const corpus = createCorpus(samples)
  for (const text of texts) corpus.add(text)
  const width = base.config.hidden_size
  const memoryOf = (number: number): Memory => {
    const tokens = Float32Array.from({ length: (1 + (number % 3)) * width }, (_, at) => Math.sin(at * (number + 1)))
    return { tokens, shape: [1 + (number % 3), width] }
  }
  const numbers = new Map(texts.map((_, number) => [corpus.document(number), number]))
  const bank = {
    compressed: 0,
    prepare: async () => {},
    memories: async (documents: readonly (typeof numbers extends Map<infer Key, number> ? Key : never)[]) =>
      documents.map((document) => memoryOf(numbers.get(document) ?? -1)),
    close: async () => {},
  }
  const questions: RetrievalQuestion[] = [
    { question: 'Where is w3 w4?', answers: ['Bergen'], supporting: [3], others: [10, 4] },
    { question: 'Where?', answers: ['x'], supporting: [], others: [] },
  ]
  const settings = retrievalSettings.parse({ topK: 1, poolSize: 12, mineAmong: texts.length })
  const mine = await openMiner({ model, corpus, settings, optionsAt: () => samples, bankAt: async () => bank })
  const plans = questions.map((question, seed) => ({ questions: [question], rate, seed }))
  const mined = await mine(plans, 5)

  const evaluation = await openRetrievalEvaluation(model)
  for (const [index, question] of questions.entries()) {
    const encoded = encodeText(question.question, samples)
    const batch = { memories: [memoryOf(0)], pools: [[0]], relevant: [[]], rows: [], rate }
    const { query } = await evaluation.outputs({ ...batch, questions: [encoded] })
    const scores = texts.map((_, number) =>
      memorySimilarity('maxsim', query?.data as Float32Array, memoryOf(number).tokens, width),
    )
    const expected = texts
      .map((_, number) => number)
      .filter((number) => number !== 3 && (index === 1 || number % 10 !== 0 || number === 10))
      .sort((left, right) => (scores[right] ?? 0) - (scores[left] ?? 0))
      .slice(0, 12)
    const found = mined[index]?.[0] ?? []
    // equal to rounding: the scores fall, and no text that is left out is nearer
    found.forEach((number, rank) => {
      expect(scores[number]).toBeCloseTo(scores[expected[rank] ?? -1] ?? Number.NaN, 4)
      expect(number === 10 || !mayAnswer(question, number, corpus)).toBe(true)
    })
    expect(found).toHaveLength(12)
    const pool = poolOf(question, corpus, { size: 5, fill: 5, hard: found, seed: 1 })
    expect(new Set(pool)).toEqual(new Set([...question.supporting, ...found].slice(0, 5)))
  }
  await evaluation.close()
})

test('a pool is filled with texts that do not answer, as far as there are any', async () => {
  const { samples } = await tinyModel(runtime)
  const corpus = createCorpus(samples)
  for (const text of texts) corpus.add(text)
  const question = { question: 'Where?', answers: ['Bergen'], supporting: [10], others: [1, 2] }
  for (let seed = 0; seed < 20; seed++) {
    const pool = poolOf(question, corpus, { size: 9, fill: 9, seed })
    expect(new Set(pool).size).toBe(9)
    expect(pool).toEqual(expect.arrayContaining([10, 1, 2]))
    expect(pool.filter((number) => number % 10 === 0)).toEqual([10])
    expect(poolOf(question, corpus, { size: 9, fill: 9, seed })).toEqual(pool)
  }
  const orders = new Set(
    Array.from({ length: 20 }, (_, seed) => poolOf(question, corpus, { size: 9, fill: 0, seed }).join()),
  )
  expect(orders.size).toBeGreaterThan(1)
  const few = createCorpus(samples)
  for (const text of texts.slice(0, 3)) few.add(text)
  expect(poolOf({ ...question, supporting: [0] }, few, { size: 9, fill: 9, seed: 0 }).sort()).toEqual([0, 1, 2])
})

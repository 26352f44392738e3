import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createRandom } from '../../../src/data/random.ts'
import { keywordQuestion } from '../../../src/training/stages/keywords.ts'
import { stageTools } from '../../../src/training/stages/material.ts'
import { createCorpus, readQuestions } from '../../../src/training/stages/retrieval-data.ts'
import { runStage } from '../../../src/training/stages/run.ts'
import { type TinyData, tinyData } from './tiny-run.ts'

const wordsOf = (text: string): string[] => [...(text.match(/[\p{L}\p{N}]+/gu) ?? [])]

describe('words of a text', () => {
  test('are asked for in their order, and the same ones again for the same seed', () => {
    const word = fc.constantFrom('Ada', 'the', '1815', 'mathematician', 'of', 'Élan', 'by', 'the', 'in', 'Oslo', '北京')
    fc.assert(
      fc.property(fc.array(word, { maxLength: 60 }), fc.integer({ min: 0, max: 99 }), (words, seed) => {
        const text = `${words.join(' ')}.`
        const question = keywordQuestion(text, createRandom(seed))
        expect(keywordQuestion(text, createRandom(seed))).toBe(question)
        if (question === undefined) return
        const rest = [...wordsOf(text)]
        for (const asked of wordsOf(question)) {
          const place = rest.indexOf(asked)
          expect(place).toBeGreaterThanOrEqual(0)
          rest.splice(0, place + 1)
        }
        expect(wordsOf(question).filter((one) => !['the', 'of', 'by', 'in'].includes(one)).length).toBeGreaterThan(1)
      }),
    )
  })

  test('leave most of what joins them', () => {
    const text = 'the Ada of the Oslo by the Turing in the Bergen '.repeat(20)
    const asked = Array.from({ length: 200 }, (_, seed) => keywordQuestion(text, createRandom(seed)) ?? '').flatMap(
      wordsOf,
    )
    const names = asked.filter((word) => /^[A-Z]/.test(word)).length
    // four names among eleven words would be a share of .36
    expect(names / asked.length).toBeGreaterThan(0.5)
  })

  test('a text that tells nothing is not asked for', () => {
    for (const nothing of ['', '?!', 'it is as it was', 'Oslo']) {
      expect(keywordQuestion(nothing, createRandom(1))).toBeUndefined()
    }
  })
})

describe('the task keywords', () => {
  let data: TinyData
  beforeAll(async () => {
    data = await tinyData()
  })
  afterAll(() => data[Symbol.asyncDispose]())

  const pool = (texts: readonly string[]) =>
    JSON.stringify({
      id: 'q',
      question: 'Q?',
      answers: ['A'],
      candidates: texts.map((text) => ({ title: '', text, supporting: true })),
    })
  const oslo = 'Oslo lies in Norway beside Frogner and Grorud.'
  const bern = 'Bern lies in Switzerland beside Biel and Thun.'
  const rome = 'Rome lies in Italy beside Ostia and Tivoli.'

  test('asks for every text once, among the other candidates of its question; texts of files left out are not in them', async () => {
    const file = await data.write('train.jsonl', `${pool([oslo, bern, rome])}\n${pool([rome, oslo])}\n`)
    const dev = await data.write('dev.jsonl', `${pool([bern])}\n`)
    const { optionsAt } = await stageTools(data.config({ docMaxLength: 200 }))
    const samples = optionsAt(4)
    const corpus = createCorpus(samples)
    const questions = await readQuestions(
      { file, task: 'keywords', without: [dev] },
      { corpus, samples, labelled: true },
    )
    expect(corpus.texts).toEqual([oslo, rome])
    expect(new Set(questions.map(({ supporting }) => supporting[0]))).toEqual(new Set([0, 1]))
    for (const { question, supporting, others } of questions) {
      const [own = -1] = supporting
      expect(others).toEqual([1 - own])
      const words = wordsOf(corpus.texts[own] ?? '')
      expect(wordsOf(question).every((word) => words.includes(word))).toBe(true)
    }
    // three for each text
    expect(questions).toHaveLength(6)
  })

  test('asks with what the compressor reads of a text', async () => {
    const long = `${'Frogner Grorud '.repeat(30)}${'Biel Thun '.repeat(100)}`
    const file = await data.write('long.jsonl', `${pool([long])}\n`)
    const { optionsAt } = await stageTools(data.config({ docMaxLength: 20 }))
    const samples = optionsAt(4)
    const questions = await readQuestions(
      { file, task: 'keywords' },
      { corpus: createCorpus(samples), samples, labelled: true },
    )
    expect(questions.length).toBeGreaterThan(0)
    expect(questions.every(({ question }) => !/Biel|Thun/.test(question))).toBe(true)
  })

  test('has its place in retrieval pretraining alone, and needs words', async () => {
    const file = await data.write('texts.jsonl', `${pool([oslo, rome])}\n`)
    const changes = { data: [{ file, task: 'keywords' }], output: `${data.folder}/refused` }
    const stage2 = data.config({ ...changes, stage: 'stage2', retrieval: { topK: 1 } })
    await expect(runStage({ config: stage2 })).rejects.toThrow(/'keywords' has no place in stage 2.*task 'answer'/s)
    await expect(runStage({ config: data.config(changes) })).rejects.toThrow(
      /'keywords' has no place in stage1.*stage2_pretrain_retrieval/s,
    )
    const dull = await data.write('dull.jsonl', `${pool(['it is so'])}\n`)
    const pretraining = data.config({
      ...changes,
      stage: 'stage2_pretrain_retrieval',
      data: [{ file: dull, task: 'keywords' }],
    })
    await expect(runStage({ config: pretraining })).rejects.toThrow(/dull\.jsonl holds no text to ask for/)
  })
})

import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createRandom } from '../../../src/data/random.ts'
import { clozeQuestions } from '../../../src/training/stages/cloze.ts'
import { stageMaterial } from '../../../src/training/stages/material.ts'
import { type TinyData, tinyData } from './tiny-run.ts'

const gap = '____'
const asks = 'What is missing: '

/** What stands left and right of a question's gap. */
function sidesOf(question: string): [left: string, right: string] {
  expect(question.startsWith(asks)).toBe(true)
  const [left, right, ...more] = question.slice(asks.length).split(gap)
  if (left === undefined || right === undefined || more.length > 0) throw new Error(`not one gap: ${question}`)
  return [left, right]
}

const text =
  'Ada Lovelace (born 10 December 1815) was an English mathematician, chiefly known for her work on the engine of Charles Babbage.'

describe('gaps in a text', () => {
  test('are filled by what stood there', () => {
    const words = fc.constantFrom(
      'Ada',
      'the',
      '1815',
      'mathematician',
      'of',
      'Élan',
      '東京',
      'engine,',
      '(1843)',
      '-',
      '  ',
      '\n',
    )
    fc.assert(
      fc.property(
        fc.array(words, { maxLength: 40 }),
        fc.integer({ min: 1, max: 8 }),
        fc.nat(),
        (parts, count, seed) => {
          const joined = parts.join(' ')
          const found = clozeQuestions(joined, count, createRandom(seed))
          expect(found.length).toBeLessThanOrEqual(count)
          expect(new Set(found.map(({ answer }) => answer)).size).toBe(found.length)
          for (const { question, answer } of found) {
            const [left, right] = sidesOf(question)
            expect(joined).toContain(`${left}${answer}${right}`)
            expect(`${left}${right}`).not.toContain(answer)
          }
        },
      ),
    )
  })

  test('leave out names, numbers and long words, never a short common one', () => {
    const answers = new Set(
      Array.from({ length: 60 }, (_, seed) =>
        clozeQuestions(text, 6, createRandom(seed)).map(({ answer }) => answer),
      ).flat(),
    )
    for (const expected of [
      'Ada Lovelace',
      'Ada',
      'Lovelace',
      '10 December 1815',
      '1815',
      'mathematician',
      'Charles Babbage',
    ])
      expect(answers).toContain(expected)
    for (const common of ['was', 'an', 'for', 'her', 'of', 'the']) expect(answers).not.toContain(common)
  })

  test('are the same for the same seed', () => {
    const asked = (seed: number) => clozeQuestions(text, 6, createRandom(seed))
    expect(asked(3)).toEqual(asked(3))
    expect(asked(3)).not.toEqual(asked(4))
  })

  test('of a text that tells nothing there are none', () => {
    for (const nothing of ['', 'it is as it was', '?!']) expect(clozeQuestions(nothing, 6, createRandom(1))).toEqual([])
  })
})

describe('the task cloze', () => {
  let data: TinyData
  beforeAll(async () => {
    data = await tinyData()
  })
  afterAll(() => data[Symbol.asyncDispose]())

  test('asks for gaps of the documents of a row; texts of files left out are not among them', async () => {
    const pool = (id: string, texts: readonly string[]) =>
      JSON.stringify({
        id,
        question: 'Q?',
        answers: ['A'],
        candidates: texts.map((one) => ({ title: '', text: one, supporting: true })),
      })
    const file = await data.write(
      'train.jsonl',
      `${pool('a', ['Oslo lies in Norway.', 'Bern lies in Switzerland.'])}\n`,
    )
    const dev = await data.write('dev.jsonl', pool('b', ['Bern lies in Switzerland.']))
    const { batches, tokenizer, texts } = await stageMaterial(
      data.config({ data: [{ file, task: 'cloze', without: [dev] }], batchSize: 1, maxLength: 400, docMaxLength: 200 }),
    )
    expect(texts).toEqual(['Oslo lies in Norway.'])
    const decode = (ids: readonly number[]) => tokenizer.decode(ids, { skipSpecials: true }).trim()
    for (let round = 0; round < 5; round++) {
      const { rows, documents } = batches.next()
      expect(documents.map(({ ids, text: [start, end] }) => decode(ids.slice(start, end)))).toEqual(texts)
      const label = decode(rows[0]?.labels.map(({ target }) => target) ?? [])
      expect(['OsloNorway', 'NorwayOslo', 'Oslo', 'Norway']).toContain(label.replaceAll(/\s/g, ''))
    }
  })
})

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { checkData } from '../../src/data/check.ts'
import { distribution } from '../../src/data/distribution.ts'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'clara-check-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

const write = async (name: string, rows: readonly unknown[]) => {
  const path = join(folder, name)
  await writeFile(path, rows.map((row) => `${typeof row === 'string' ? row : JSON.stringify(row)}\n`).join(''))
  return path
}

/** Words stand for tokens. */
const cutTo = (length: number) => (text: string) => {
  const words = text.split(/\s+/).filter((word) => word !== '')
  return { tokens: words.length, kept: words.slice(0, length).join(' ') }
}
const options = { cut: cutTo(4), docMaxLength: 4 }

const passage = (text: string, ...qa: [question: string, ...answers: string[]][]) => ({
  id: 'p',
  text,
  qa: qa.map(([question, ...answers]) => ({ question, answers })),
})
const pool = (question: string, answer: string, candidates: [text: string, supporting: boolean][]) => ({
  id: 'q',
  question,
  answers: [answer],
  candidates: candidates.map(([text, supporting]) => ({ text, supporting })),
})

describe('checking a dataset', () => {
  test('counts records, texts, questions and tokens, and what is cut off', async () => {
    const file = await write('counts.jsonl', [
      passage('one two three', ['how many?', 'three', 'not this one'], ['what first?', 'one']),
      passage('one two three four five six', ['and last?', 'one two']),
      pool('which one?', 'two', [
        ['One  two three', true],
        ['four', false],
      ]),
    ])
    const report = await checkData(file, options)
    expect(report).toMatchObject({
      file,
      formats: { passage: 2, pool: 1 },
      records: 3,
      // white space and case do not make another text
      documents: { all: 4, distinct: 3, perRecord: { mean: 4 / 3, max: 2 } },
      questions: 4,
      withPositives: 4,
      truncation: { docMaxLength: 4, documents: 1, tokens: 2 },
      problems: [],
      overlaps: [],
    })
    expect(report.tokens.documents).toEqual({ mean: 10 / 3, p50: 3, p90: 6, p99: 6, max: 6 })
    expect(report.tokens.answers).toMatchObject({ mean: 5 / 4, max: 2 })
    expect(report.samples.map(({ line }) => line)).toEqual([1, 2, 3])
  })

  test('finds every kind of problem with its line, and goes on after a line that is no record', async () => {
    const same = passage('alpha beta gamma', ['a?', 'beta'])
    const file = await write('problems.jsonl', [
      '{ "id": ',
      { docs: ['text'], question: 'Q?', answer: '' },
      passage(' ', ['empty?', 'nothing']),
      pool('nobody?', 'x', [['x', false]]),
      passage('one two three four five', ['late?', 'five'], ['absent?', 'six'], ['Late?', 'one'], ['odd?', 'Yes']),
      same,
      same,
      passage('kept apart', ['b?', 'apart']),
      // five lies past the fourth word, and so does nothing that a passage is cut into
      pool('far?', 'five', [['one two three four five six', true]]),
      // a text that the other file does not need for an answer
      passage('y', ['c?', 'y']),
    ])
    const dev = await write('dev.jsonl', [
      pool('Late?', 'y', [
        ['y', false],
        ['Kept apart', true],
      ]),
    ])
    const { problems, overlaps, records } = await checkData(file, { ...options, against: [dev] })
    expect(records).toBe(8)
    const lines = Object.fromEntries(problems.map(({ kind, examples }) => [kind, examples.map(({ line }) => line)]))
    expect(lines).toEqual({
      unreadable: [1, 2],
      emptyDocument: [3],
      noPositive: [4],
      answerAbsent: [3, 5],
      answerCut: [9],
      duplicateRecord: [7],
      duplicateQuestion: [5],
      inOther: [5, 8],
    })
    expect(problems[0]?.examples[1]?.what).toBe('"answer" is empty')
    expect(overlaps).toEqual([{ file: dev, documents: 2, positives: 1, questions: 1 }])
  })

  test('shows five examples of a problem and counts the rest', async () => {
    const file = await write(
      'many.jsonl',
      Array.from({ length: 9 }, (_, index) => passage(`text ${index}`, ['q?', 'z'])),
    )
    const [problem] = (await checkData(file, options)).problems
    expect(problem).toMatchObject({ kind: 'answerAbsent', count: 9 })
    expect(problem?.examples).toHaveLength(5)
  })

  test('looks for the answer in the supporting documents only, or in all where none are marked', async () => {
    const file = await write('where.jsonl', [
      pool('a?', 'needle', [
        ['needle', false],
        ['hay', true],
      ]),
      { question: 'b?', docs: ['hay', 'needle'], answer: 'Needle' },
    ])
    const { problems } = await checkData(file, options)
    expect(problems.map(({ kind, examples }) => [kind, examples.map(({ line }) => line)])).toEqual([
      ['answerAbsent', [1]],
    ])
  })
})

test('percentiles are by nearest rank', () => {
  expect(distribution(Array.from({ length: 100 }, (_, index) => 100 - index))).toEqual({
    mean: 50.5,
    p50: 50,
    p90: 90,
    p99: 99,
    max: 100,
  })
  expect(distribution([])).toEqual({ mean: 0, p50: 0, p90: 0, p99: 0, max: 0 })
})

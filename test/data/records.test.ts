import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { parseRecord, readRecords, type TrainingRecord } from '../../src/data/records.ts'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'clara-records-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

const documents = (...texts: string[]) => texts.map((text) => ({ title: '', text }))
const row = { question: 'Q?', docs: ['A b.', 'C d.'] }

describe('a published row', () => {
  it.each<[string, Record<string, unknown>, Partial<TrainingRecord>]>([
    [
      'of pretrain_data asks a list of questions about one document',
      { data_type: 'qa', question: ['Q1?', 'Q2?'], answers: ['a1', 'a2'], docs: ['D'] },
      {
        kind: 'passage',
        documents: documents('D'),
        questions: [
          { question: 'Q1?', answers: ['a1'] },
          { question: 'Q2?', answers: ['a2'] },
        ],
        positives: undefined,
      },
    ],
    [
      'of pretrain_data that paraphrases asks nothing, and its target is the first answer',
      { data_type: 'paraphrase', question: ['ignored'], answers: ['said otherwise', 'again'], docs: ['D'] },
      { kind: 'paraphrase', documents: documents('D'), questions: [{ question: '', answers: ['said otherwise'] }] },
    ],
    [
      'of instruction_tuning_data is answered by `answer` before `gold_answer`',
      { ...row, gold_answer: 'gold', answer: 'generated' },
      { kind: 'question', questions: [{ question: 'Q?', answers: ['generated'] }] },
    ],
    [
      'of end_to_end_data is answered by `gold_answer`',
      { ...row, gold_answer: 'gold' },
      { questions: [{ question: 'Q?', answers: ['gold'] }] },
    ],
    [
      'takes `answers` where `answer` is no text',
      { ...row, answer: ['x'], answers: ['first', 'second'], golden_answers: ['g'] },
      { questions: [{ question: 'Q?', answers: ['first', 'second'] }] },
    ],
    [
      'takes the first of `golden_answers` after that',
      { ...row, golden_answers: ['g1', 'g2'], gold_answer: 'gold' },
      { questions: [{ question: 'Q?', answers: ['g1'] }] },
    ],
    [
      'takes its documents from `context` where `docs` is no list, and marks the positives',
      { question: 'Q?', docs: 'no list', context: ['A', 'B', 'C'], content: ['Z'], answer: 'a', pos_index: [2, 0] },
      { documents: documents('A', 'B', 'C'), positives: [2, 0] },
    ],
    [
      'takes its documents from `content` last',
      { question: 'Q?', content: ['Z'], answer: 'a' },
      { documents: documents('Z') },
    ],
  ])('%s', (_, value, expected) => {
    expect(parseRecord(value)).toMatchObject({ format: 'published', record: expected })
  })

  it.each<[string, unknown, RegExp]>([
    ['no object', ['a'], /not a JSON object/],
    ['no known field', { text: 'T' }, /none of the fields "qa", "candidates", "paraphrase", "docs"/],
    ['no documents', { ...row, docs: [], answer: 'a' }, /no documents/],
    ['an empty document', { ...row, docs: ['A', ' \n'], answer: 'a' }, /document 1 is empty/],
    ['a document that is no text', { ...row, docs: ['A', 5], answer: 'a' }, /document 1 is not text/],
    ['no answer', row, /none of the fields "answer", "answers"/],
    ['an empty answer', { ...row, answer: '' }, /"answer" is empty/],
    ['an answer that is no text', { ...row, answers: [5] }, /"answers" is not text/],
    ['no question', { docs: ['A'], answer: 'a' }, /"question" is missing/],
    ['an empty question', { ...row, question: ' ', answer: 'a' }, /"question" is empty/],
    ['fewer answers than questions', { ...row, question: ['a', 'b'], answers: ['c'] }, /2 questions and 1 answers/],
    ['a positive past the documents', { ...row, answer: 'a', pos_index: [2] }, /"pos_index" names document 2.*only 2/],
    ['a negative positive', { ...row, answer: 'a', pos_index: [-1] }, /pos_index\.0/],
  ])('with %s is refused', (_, value, problem) => {
    expect(parseRecord(value)).toEqual({ problem: expect.stringMatching(problem) })
  })
})

describe('a row of our own datasets', () => {
  it('is read whatever its kind', () => {
    const qa = [{ question: 'Q?', answers: ['a', 'b'] }]
    expect(parseRecord({ id: 'p', title: 'T', text: 'a.', qa })).toEqual({
      format: 'passage',
      record: { id: 'p', kind: 'passage', documents: [{ title: 'T', text: 'a.' }], questions: qa, positives: [0] },
    })
    expect(parseRecord({ text: 'a.', paraphrase: 'b.' })).toMatchObject({
      format: 'paraphrase',
      record: { kind: 'paraphrase', questions: [{ question: '', answers: ['b.'] }] },
    })
    const candidates = [false, true].map((supporting, index) => ({ title: `T${index}`, text: 'x', supporting }))
    expect(parseRecord({ id: 'q', question: 'Q?', answers: ['a'], candidates })).toMatchObject({
      format: 'pool',
      record: { kind: 'question', documents: [{ title: 'T0' }, { title: 'T1' }], positives: [1] },
    })
    expect(parseRecord({ id: 'p', text: 'a.', qa: [] })).toEqual({ problem: expect.stringMatching(/^"qa": /) })
  })
})

it('no JSON value makes the reader fail otherwise than by naming a problem', () => {
  const keys = ['docs', 'context', 'content', 'question', 'answer', 'answers', 'golden_answers', 'gold_answer']
  const rows = fc.dictionary(
    fc.constantFrom(...keys, 'data_type', 'pos_index', 'qa', 'candidates', '__proto__'),
    fc.jsonValue(),
  )
  fc.assert(
    fc.property(fc.oneof(rows, fc.jsonValue()), (value) => {
      const result = parseRecord(value)
      if ('problem' in result) return
      expect(result.record.documents.every(({ text }) => text.length > 0)).toBe(true)
      expect(result.record.questions.every(({ answers }) => answers.length > 0)).toBe(true)
    }),
  )
})

it('reading names file and line of what is no record', async () => {
  const path = join(folder, 'published.jsonl')
  await writeFile(path, `${JSON.stringify({ ...row, answer: 'a' })}\n\n${JSON.stringify({ ...row, answer: '' })}\n`)
  const read: TrainingRecord[] = []
  const all = async () => {
    for await (const record of readRecords(path)) read.push(record)
  }
  await expect(all()).rejects.toThrow(`${path}:3: the record does not fit its schema: "answer" is empty.`)
  expect(read).toHaveLength(1)
})

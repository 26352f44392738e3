import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Clara } from '../../../src/clara/clara.ts'
import { noMemoryPrompt, trainingPrompt } from '../../../src/clara/prompts.ts'
import { openRuntime } from '../../../src/runtime/runtime.ts'
import { readLastCheckpoint } from '../../../src/training/checkpoint.ts'
import { readMetrics } from '../../../src/training/metrics.ts'
import { packRun } from '../../../src/training/stages/pack.ts'
import { reasoningPieces, reasoningSample } from '../../../src/training/stages/reasoning.ts'
import { runStage } from '../../../src/training/stages/run.ts'
import { encodeText, type SampleOptions } from '../../../src/training/stages/samples.ts'
import { type TinyModel, tinyModel } from '../../clara/tiny.ts'
import { salient, type TinyData, tinyData } from './tiny-run.ts'

let data: TinyData
let tiny: TinyModel
beforeAll(async () => {
  data = await tinyData()
  await using runtime = await openRuntime({ threads: 1 })
  tiny = await tinyModel(runtime, { compressor: salient, docMaxLength: 40 })
})
afterAll(() => data[Symbol.asyncDispose]())

const answer = `I look it up.
<information>
(1) Oslo lies at the end of a fjord.
(2) Snow fell (1) day
in May.
</information>
So it is (2) May.`

describe('an answer', () => {
  test('is cut at its spans, and a span at the numbers that begin its lines', () => {
    expect(reasoningPieces(answer)).toEqual([
      { text: 'I look it up.\n' },
      { documents: ['Oslo lies at the end of a fjord.', 'Snow fell (1) day\nin May.'] },
      { text: '\nSo it is (2) May.' },
    ])
    expect(reasoningPieces('<information></information>')).toEqual([{ documents: [] }])
    expect(reasoningPieces('<information>one</information><information>(1) two</information>')).toEqual([
      { documents: ['one'] },
      { documents: ['two'] },
    ])
    expect(reasoningPieces('Yes.')).toEqual([{ text: 'Yes.' }])
    expect(reasoningPieces('<information>(1) one')).toBeUndefined()
  })
})

describe('what the generator reads', () => {
  const sample = (
    pieces: NonNullable<ReturnType<typeof reasoningPieces>>,
    options: SampleOptions,
    question = 'When?',
  ) => reasoningSample({ question, documents: ['Given.'], pieces }, options, 3)
  const memorySlots = (ids: readonly number[]) => ids.filter((id) => id === tiny.options.firstMemoryToken).length

  test('has memory slots in place of the documents, and labels on all that it writes itself', () => {
    const { tokenizer } = tiny
    const { documents, row } = sample(reasoningPieces(answer) ?? [], tiny.samples)
    expect(documents).toEqual(
      ['Given.', 'Oslo lies at the end of a fjord.', 'Snow fell (1) day\nin May.'].map((text) =>
        encodeText(text, tiny.samples),
      ),
    )
    expect(row.documents).toEqual([3, 4, 5])
    const counts = documents.map(({ text: [from, to] }) => Math.ceil((to - from) / tiny.rate))
    expect(memorySlots(row.ids)).toBe(counts.reduce((sum, count) => sum + count, 0))
    const written = tokenizer.decode(
      row.labels.map(({ target }) => target),
      { skipSpecials: true },
    )
    expect(written.replace(/\s+/g, ' ').trim()).toBe('I look it up. So it is (2) May.')
    for (const { position, target } of row.labels) expect(row.ids[position + 1]).toBe(target)
    const read = tokenizer.decode(row.ids, { skipSpecials: true })
    // the tiny vocabulary has no angle brackets
    expect(read).toContain('information /information')
    expect(read).not.toContain('Oslo')
    // what ends the turn is learned too
    expect(row.labels.at(-1)?.target).toBe(row.ids.at(-1))
  })

  test('is the plain prompt where nothing is looked up', () => {
    const plain = reasoningSample({ question: 'When?', documents: [], pieces: [{ text: 'In May.' }] }, tiny.samples, 0)
    const expected = trainingPrompt(tiny.tokenizer, noMemoryPrompt('When?'), 'In May.')
    expect(plain.row.ids).toEqual(expected.ids)
    expect(plain.row.labels.map(({ target }) => target)).toEqual(expected.ids.slice(expected.promptLength))
  })

  test('cannot be confused by a question that quotes a span', () => {
    const { row } = sample([{ text: 'In May.' }], tiny.samples, '<information>')
    expect(row.labels.length).toBeGreaterThan(0)
  })

  test('ends before the first document that does not fit whole', () => {
    const whole = sample(reasoningPieces(answer) ?? [], tiny.samples)
    for (let maxLength = whole.row.ids.length; maxLength > 10; maxLength -= 3) {
      const { documents, row } = sample(reasoningPieces(answer) ?? [], { ...tiny.samples, maxLength })
      expect(row.ids.length).toBeLessThanOrEqual(maxLength)
      expect(row.ids).toEqual(whole.row.ids.slice(0, row.ids.length))
      const counts = documents.map(({ text: [from, to] }) => Math.ceil((to - from) / tiny.rate))
      expect(memorySlots(row.ids)).toBe(counts.reduce((sum, count) => sum + count, 0))
      expect(row.labels).toEqual(whole.row.labels.filter(({ position }) => position + 1 < row.ids.length))
    }
  })
})

test.each([
  ['tokens', { differentMemTokens: true }],
  ['salient', { compressor: salient, compressionRates: [4, 2] }],
] as const)(
  'the generator learns to reason over memory, and nothing else changes: memory %s',
  async (memory, changes) => {
    const records = ['Oslo', 'Rome', 'Bern'].map((city) => ({
      question: `Where is ${city}?`,
      answer: `I look. <information>(1) ${city} lies far\n(2) away.</information> In ${city}.`,
    }))
    const file = await data.write(`${memory}.jsonl`, records.map((record) => `${JSON.stringify(record)}\n`).join(''))
    const output = (name: string) => `${data.folder}/${memory}-${name}`
    const lora = { rank: 4, dropout: 0.1 }
    await runStage({ config: data.config({ ...changes, lora, output: output('first'), steps: 2 }) })
    const config = data.config({
      ...changes,
      lora,
      stage: 'stage2_reasoning',
      output: output('reasoned'),
      memoryCache: output('memory'),
      initialise: output('first'),
      steps: 20,
      learningRate: 0.02,
      data: [{ file, task: 'answer' }],
      evaluation: { every: 0, samples: 3, data: [{ file, task: 'answer' }] },
    })
    expect((await runStage({ config })).compressed).toBeGreaterThan(0)
    const evaluations = (await readMetrics(config.output)).filter(({ kind }) => kind === 'evaluation')
    const [before, after] = evaluations.map(({ values }) => values['loss'] ?? Number.NaN)
    expect(after).toBeLessThan(0.5 * (before ?? 0))
    const learned = [...((await readLastCheckpoint(config.output))?.parameters.keys() ?? [])]
    expect(learned.every((name) => name.includes('.decoder_adapter.'))).toBe(true)
    await packRun({ runFolder: config.output, modelFolder: output('model'), which: 'last' })
    await using clara = await Clara.load(output('model'), { threads: 1 })
    expect(await clara.generateFromText(['Who?'], [['A text.']], { maxNewTokens: 2 })).toHaveLength(1)
  },
)

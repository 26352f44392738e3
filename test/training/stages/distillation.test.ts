import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openRuntime, type Runtime } from '../../../src/runtime/runtime.ts'
import { readMetrics } from '../../../src/training/metrics.ts'
import { packRun } from '../../../src/training/stages/pack.ts'
import { runStage } from '../../../src/training/stages/run.ts'
import { answerSample, autoEncodingSample, encodeText } from '../../../src/training/stages/samples.ts'
import { openStage1, openStage1Evaluation, type StageBatch } from '../../../src/training/stages/stage1.ts'
import { tinyModel, tinyTexts } from '../../clara/tiny.ts'
import { salient, type TinyData, tinyData } from './tiny-run.ts'

let runtime: Runtime
let data: TinyData
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
  data = await tinyData()
})
afterAll(async () => {
  await runtime.close()
  await data[Symbol.asyncDispose]()
})

/** Log-probabilities of a row of logits at a temperature. */
function logProbabilities(logits: readonly number[], temperature: number): number[] {
  const scaled = logits.map((logit) => logit / temperature)
  const largest = Math.max(...scaled)
  const total = Math.log(scaled.reduce((sum, value) => sum + Math.exp(value - largest), 0)) + largest
  return scaled.map((value) => value - total)
}

async function setUp(architecture: 'mistral-1' | 'llama-3') {
  const { options, samples, rate } = await tinyModel(runtime, { architecture, compressor: salient })
  const documents = tinyTexts.map((text) => encodeText(text, samples))
  const withText = { ...samples, withText: true }
  const qa = [
    { question: 'How long?', answer: 'nine days' },
    { question: 'What fell?', answer: 'Rain' },
  ]
  const answers = [
    answerSample(documents.slice(1, 2), qa, withText, 0),
    answerSample(documents.slice(0, 2), qa.slice(0, 1), withText, 1),
  ]
  // whose reader of the text teaches nothing
  const repeated = autoEncodingSample('A short one.', withText, 3)
  const all = [...answers.slice(0, 1), repeated, ...answers.slice(1)]
  const batch: StageBatch = {
    documents: [...answers.flatMap((sample) => sample.documents), ...repeated.documents],
    rows: all.map(({ row }) => row),
    textRows: all.map(({ textRow }) => textRow),
    rate,
  }
  return { options, batch }
}

describe('the divergence from a reader of the text', () => {
  test.each(['mistral-1', 'llama-3'] as const)(
    'is that of its definition, and so is its gradient: %s',
    async (architecture) => {
      const { options, batch } = await setUp(architecture)
      const [weight, temperature] = [0.7, 2]
      const model = await openStage1({ ...options, distillation: { weight, temperature } })
      const normaliser = model.labelledTokens(batch)
      const step = () => model.lossAndGradients(batch, { normaliser, share: 1, seed: 0 })
      const { loss, terms, gradients } = await step()

      const evaluation = await openStage1Evaluation(options)
      const logitsOf = async (rows: StageBatch['rows']) => {
        const { logits } = await evaluation.outputs({ ...batch, rows })
        const [count = 0, width = 0] = logits?.dims ?? []
        const all = Array.from(logits?.data ?? [], Number)
        return Array.from({ length: count }, (_, label) => all.slice(label * width, (label + 1) * width))
      }
      const pairs = batch.rows.flatMap((row, index) => {
        const text = batch.textRows?.[index]
        return text ? [{ row, text }] : []
      })
      expect(pairs).toHaveLength(2)
      for (const { row, text } of pairs) {
        expect(text.labels.map(({ target }) => target)).toEqual(row.labels.map(({ target }) => target))
        expect(text.documents).toEqual([])
      }
      const student = await logitsOf(pairs.map(({ row }) => row))
      const teacher = await logitsOf(pairs.map(({ text }) => text))
      const divergences = teacher.map((row, label) => {
        const expected = logProbabilities(row, temperature)
        const found = logProbabilities(student[label] ?? [], temperature)
        return expected.reduce((sum, value, at) => sum + Math.exp(value) * (value - (found[at] ?? 0)), 0)
      })
      const divergence = (temperature ** 2 * divergences.reduce((sum, value) => sum + value, 0)) / normaliser
      expect(divergence).toBeGreaterThan(0)
      expect(terms['divergence']).toBeCloseTo(divergence, 4)
      expect(loss).toBeCloseTo((terms['crossEntropy'] ?? 0) + weight * divergence, 4)

      // the compressor reaches the student alone; the teacher, which is constant, is in the generator's gradient no more than its values
      const learning = [...gradients].filter(
        ([name]) => name.includes('.encoder_adapter.') || name.startsWith('salient'),
      )
      const norm = Math.hypot(...learning.flatMap(([, values]) => [...values]))
      const move = (size: number) => {
        for (const [name, values] of learning) {
          const parameter = model.parameters.get(name)
          values.forEach((value, at) => {
            if (parameter) parameter[at] = (parameter[at] ?? 0) + (size * value) / norm
          })
        }
      }
      const slope = async (size: number) => {
        move(size)
        const above = (await step()).loss
        move(-2 * size)
        const below = (await step()).loss
        move(size)
        return (above - below) / (2 * size)
      }
      expect((await slope(2e-3)) / norm).toBeCloseTo(1, 1)
      await model.close()
      await evaluation.close()
    },
  )

  test('is none where no row has a text', async () => {
    const { options, batch } = await setUp('mistral-1')
    const model = await openStage1({ ...options, distillation: { weight: 1, temperature: 1 } })
    const alone = { ...batch, rows: batch.rows.slice(1, 2), textRows: batch.textRows?.slice(1, 2) ?? [] }
    const { loss, terms, gradients } = await model.lossAndGradients(alone, { normaliser: 5, share: 1, seed: 0 })
    expect(terms['divergence']).toBe(0)
    expect(loss).toBeCloseTo(terms['crossEntropy'] ?? Number.NaN, 6)
    for (const values of gradients.values()) expect(values.every(Number.isFinite)).toBe(true)
    await model.close()
  })
})

test('a run learns from itself, or from the model that it is told', async () => {
  const at = (name: string) => `${data.folder}/${name}`
  const file = at('passages.jsonl')
  // long enough for the texts, which are cut by no prompt's end
  const changes = {
    compressor: salient,
    lora: { rank: 4, dropout: 0 },
    data: [{ file, task: 'answer' }],
    steps: 2,
    maxLength: 600,
  }
  await runStage({ config: data.config({ ...changes, output: at('taught') }) })
  await packRun({ runFolder: at('taught'), modelFolder: at('teacher'), which: 'last' })

  const divergences = async (
    name: string,
    distillation: Record<string, unknown>,
    more: Record<string, unknown> = {},
  ) => {
    await runStage({ config: data.config({ ...changes, ...more, output: at(name), distillation }) })
    const lines = (await readMetrics(at(name))).filter(({ kind }) => kind === 'training')
    return lines.map(({ values }) => values['divergence'] ?? Number.NaN)
  }
  const itself = await divergences('itself', {}, { initialise: at('teacher') })
  const told = await divergences('told', { teacher: at('teacher') }, { initialise: at('teacher') })
  expect(itself.every((value) => value > 0)).toBe(true)
  // the same before the first update, and not after it
  expect(told[0]).toBeCloseTo(itself[0] ?? Number.NaN, 5)
  expect(told[1]).not.toBe(itself[1])
  const rounded = await divergences('rounded', { teacher: at('teacher') }, { frozenWeights: 'int8' })
  expect(rounded.every(Number.isFinite)).toBe(true)
  const elsewhere = { teacher: at('nowhere') }
  await expect(divergences('missing', elsewhere)).rejects.toThrow(/no CLaRa model in .*nowhere/)
})

import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { packPrompts } from '../../../src/clara/batch.ts'
import { loadModel } from '../../../src/clara/model.ts'
import { fullTextPrompt, noMemoryPrompt, trainingPrompt } from '../../../src/clara/prompts.ts'
import { loadJsonLines } from '../../../src/data/jsonl.ts'
import { passageSchema } from '../../../src/data/schemas.ts'
import { openRuntime } from '../../../src/runtime/runtime.ts'
import { readBestCheckpoint, readLastCheckpoint } from '../../../src/training/checkpoint.ts'
import { readMetrics } from '../../../src/training/metrics.ts'
import { type StageConfig, stageConfigSchema } from '../../../src/training/stages/config.ts'
import { stageMaterial, stageTools } from '../../../src/training/stages/material.ts'
import { packRun } from '../../../src/training/stages/pack.ts'
import { planStage } from '../../../src/training/stages/plan.ts'
import { openReading, openReadingEvaluation } from '../../../src/training/stages/reading.ts'
import { runStage } from '../../../src/training/stages/run.ts'
import { answerSample, encodeText } from '../../../src/training/stages/samples.ts'
import * as stage1 from '../../../src/training/stages/stage1.ts'
import { tinyModel, tinyTexts } from '../../clara/tiny.ts'
import { salient, type TinyData, tinyData } from './tiny-run.ts'

vi.mock('../../../src/training/stages/stage1.ts', { spy: true })

let data: TinyData
beforeAll(async () => {
  data = await tinyData()
})
afterAll(() => data[Symbol.asyncDispose]())

const at = (name: string) => join(data.folder, name)
const passages = () => [{ file: at('passages.jsonl'), task: 'answer' }]

describe('the rows of a control', () => {
  /** The first batches of a run. */
  async function batches(changes: Record<string, unknown>, count = 12) {
    const { batches: stream, tokenizer } = await stageMaterial(data.config({ compressor: salient, ...changes }))
    return { rows: Array.from({ length: count }, () => stream.next()), tokenizer }
  }

  test('are those that memory has, with the same answers; only what stands in the place of the documents differs', async () => {
    const common = { maxLength: 2000 }
    const { rows: memory } = await batches(common)
    const { rows: text } = await batches({ ...common, background: 'text' })
    const { rows: empty } = await batches({ ...common, background: 'empty' })
    const answers = (list: typeof memory) =>
      list.map(({ rows }) => rows.map(({ labels }) => labels.map(({ target }) => target)))
    expect(answers(text)).toEqual(answers(memory))
    expect(answers(empty)).toEqual(answers(memory))
    for (const { documents, rows } of [...text, ...empty]) {
      expect(documents).toEqual([])
      for (const row of rows) expect(row.documents).toEqual([])
    }
    const lengths = (list: typeof memory) => list.flatMap(({ rows }) => rows.map(({ ids }) => ids.length))
    for (const [index, length] of lengths(empty).entries()) expect(length).toBeLessThan(lengths(text)[index] ?? 0)
  })

  test.each(['text', 'empty'] as const)('show the documents or nothing of them: %s', async (background) => {
    const records = await loadJsonLines(at('passages.jsonl'), passageSchema)
    // each text in the tokenizer's own spelling, which knows few characters; its last words are no answer
    const { rows, tokenizer } = await batches({ background, data: passages(), documents: { maximum: 1 } }, 6)
    const spelt = (of: string) => tokenizer.decode(tokenizer.encode(of)).trim()
    const read = rows.flatMap((batch) =>
      batch.rows.map((row) => {
        const first = Math.min(...row.labels.map(({ position }) => position))
        return tokenizer.decode(row.ids.slice(0, first + 1), { skipSpecials: true })
      }),
    )
    const shown = read.map((prompt) => records.filter(({ text }) => prompt.includes(spelt(text).slice(0, 15))).length)
    expect(shown).toEqual(read.map(() => (background === 'text' ? 1 : 0)))
  })
})

describe('the loss of a control', () => {
  const questions = [
    { question: 'How long?', answer: 'nine days' },
    { question: 'What fell?', answer: 'Rain' },
  ]

  test.each([
    ['mistral-1', { memory: 'mean' }],
    ['llama-3', salient],
    // whose head holds the memory tokens' embeddings
    ['llama-3', { memory: 'tokens' }],
  ] as const)('is that of the whole graph over the full text: %s, %o', async (architecture, compressor) => {
    await using runtime = await openRuntime({ threads: 1 })
    const { options, samples, tokenizer } = await tinyModel(runtime, { architecture, compressor, docMaxLength: 80 })
    const whole = await stage1.openStage1Evaluation(options)
    const reading = await openReadingEvaluation(options)
    const training = await openReading(options)
    const texts = tinyTexts.slice(0, 2)
    const documents = texts.map((text) => encodeText(text, samples))
    // the tokenizer knows few characters
    const spelt = texts.map((text) => tokenizer.decode(tokenizer.encode(text)))
    for (const [background, messages] of [
      ['text', (question: string) => fullTextPrompt(question, spelt)],
      ['empty', noMemoryPrompt],
    ] as const) {
      const { row } = answerSample(documents, questions, { ...samples, background, maxLength: 600 }, 0)
      const prompts = questions.map(({ question, answer }) =>
        trainingPrompt(tokenizer, messages(question), answer, 600),
      )
      const expected = await whole.loss({ documents, rows: [packPrompts(prompts, [])], rate: 4 })
      const batch = { memories: [], rows: [row] }
      expect(expected).toBeGreaterThan(1)
      expect(Math.abs((await reading.loss(batch)) - expected)).toBeLessThan(1e-5 * expected)
      const normaliser = training.labelledTokens(batch)
      const { loss, gradients } = await training.lossAndGradients(batch, { normaliser, share: 1, seed: 0 })
      expect(Math.abs(loss - expected)).toBeLessThan(1e-5 * expected)
      expect([...gradients.keys()].every((name) => name.includes('.decoder_adapter.'))).toBe(true)
    }
    await Promise.all([whole.close(), reading.close(), training.close()])
  })
})

describe('a run with background', () => {
  const memoryRun = async () => {
    const config = data.config({ output: at('memory'), compressor: salient, steps: 2 })
    if (!(await readLastCheckpoint(config.output))) await runStage({ config })
    return config.output
  }
  const control = async (name: string, changes: Record<string, unknown> = {}) =>
    data.config({
      output: at(name),
      compressor: salient,
      initialise: await memoryRun(),
      data: passages(),
      evaluation: { every: 4, samples: 6, data: passages() },
      maxLength: 600,
      ...changes,
    })

  test.each([
    ['text', { generator: 'fresh' }],
    ['empty', { frozenWeights: 'int8' }],
  ] as const)(
    '%s learns with the generator alone and leaves the compressor as it was: %o',
    async (background, more) => {
      const start = await memoryRun()
      vi.mocked(stage1.openStage1).mockClear()
      vi.mocked(stage1.openStage1Evaluation).mockClear()
      const config = await control(background, { ...more, background, steps: 30, learningRate: 0.02 })
      expect(await runStage({ config })).toMatchObject({ reason: 'finished', compressed: 0 })
      expect(stage1.openStage1).not.toHaveBeenCalled()
      expect(stage1.openStage1Evaluation).not.toHaveBeenCalled()
      const evaluations = (await readMetrics(config.output)).filter(({ kind }) => kind === 'evaluation')
      expect(Object.keys(evaluations[0]?.values ?? {})).toEqual(['loss'])
      expect(evaluations.at(-1)?.values['loss']).toBeLessThan(0.8 * (evaluations[0]?.values['loss'] ?? 0))
      const learned = [...((await readLastCheckpoint(config.output))?.parameters.keys() ?? [])]
      expect(learned.length).toBeGreaterThan(0)
      expect(learned.every((name) => name.includes('.decoder_adapter.'))).toBe(true)

      await packRun({ runFolder: start, modelFolder: at('memory-model'), which: 'last' })
      await packRun({ runFolder: config.output, modelFolder: at(`${background}-model`), which: 'best' })
      const [before, after] = [await loadModel(at('memory-model')), await loadModel(at(`${background}-model`))]
      expect(after.idf).toEqual(before.idf)
      for (const [name, { data: values }] of before.parameters) {
        const found = after.parameters.get(name)?.data
        if (!name.includes('.decoder_adapter.')) expect(found, name).toEqual(values)
        else if (name.includes('.lora_B.')) expect(found, name).not.toEqual(values)
      }
    },
  )

  test('stops early, and goes on bit for bit after an interruption', async () => {
    const better = { every: 1, patience: 2, better: 'higher', samples: 6, data: passages() }
    const early = await control('early', { background: 'text', steps: 9, evaluation: better })
    expect(await runStage({ config: early })).toMatchObject({ reason: 'stopped improving' })
    expect(await readBestCheckpoint(early.output)).toBeDefined()

    const whole = await control('whole', { background: 'text', steps: 5 })
    await runStage({ config: whole })
    const cut = await control('cut', { background: 'text', steps: 5 })
    const controller = new AbortController()
    const progress = { step: ({ step }: { step: number }) => (step === 2 ? controller.abort() : undefined) }
    expect(await runStage({ config: cut, signal: controller.signal, progress })).toMatchObject({ step: 2 })
    await expect(runStage({ config: { ...cut, background: 'empty' }, resume: true })).rejects.toThrow(/background/)
    expect(await runStage({ config: cut, resume: true })).toMatchObject({ reason: 'finished', step: 5 })
    const [left, right] = [await readLastCheckpoint(whole.output), await readLastCheckpoint(cut.output)]
    expect(right?.parameters).toEqual(left?.parameters)
    expect(right?.moments).toEqual(left?.moments)
  })

  test('can be planned, has one mode, and costs no compressor', async () => {
    const config = await control('planned', { background: 'empty' })
    const plan = await planStage(config)
    expect(Object.keys(plan.parameters)).toEqual(['decoder_adapter'])
    expect(plan.memoryMiB.saving).toBeUndefined()
    expect(plan.data).toMatchObject([{ items: 6 }])
    const { background: _, ...memory } = config
    expect(plan.flopsPerStep).toBeLessThan((await planStage(memory as StageConfig)).flopsPerStep)
    await expect(runStage({ config: { ...config, memoryBudgetMiB: 100 } })).rejects.toThrow(/memoryBudgetMiB \(100\)/)
  })

  test.each([
    [{ background: 'text', memoryMode: 'saving' }, /memoryMode: the background 'text' has no saving mode/],
    [{ background: 'empty', distillation: {} }, /distillation: .* distil, from text into memory/],
    [{ background: 'text', stage: 'stage2' }, /background: the stage 'stage2' reads memory/],
    [{ background: 'none' }, /background/],
  ])('is refused where it makes no sense: %o', (changes, problem) => {
    const { error } = stageConfigSchema.safeParse(data.settings(changes))
    const problems = error?.issues.map(({ path, message }) => `${path.join('.')}: ${message}`).join('\n')
    expect(problems).toMatch(problem)
  })
})

test('tools tell samples what the background is, and leave memory unsaid', async () => {
  const optionsAt = async (changes: Record<string, unknown>) => (await stageTools(data.config(changes))).optionsAt(4)
  expect(await optionsAt({ background: 'text' })).toMatchObject({ background: 'text' })
  expect(await optionsAt({})).not.toHaveProperty('background')
})

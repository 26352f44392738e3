import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { readLastCheckpoint } from '../../../src/training/checkpoint.ts'
import { chooseMemoryMode } from '../../../src/training/stages/memory-estimate.ts'
import { planStage } from '../../../src/training/stages/plan.ts'
import { runStage } from '../../../src/training/stages/run.ts'
import { type TinyData, tinyData } from './tiny-run.ts'

let data: TinyData
beforeAll(async () => {
  data = await tinyData()
})
afterAll(() => data[Symbol.asyncDispose]())

test('a plan tells what the run then does', async () => {
  const config = data.config({ steps: 1, output: join(data.folder, 'planned') })
  const plan = await planStage(config)
  await runStage({ config })
  const trained = await readLastCheckpoint(config.output)
  const counts: Record<string, number> = {}
  for (const [name, { length }] of trained?.parameters ?? []) {
    const role = /\.lora_[AB]\.(\w+)\.weight$/.exec(name)?.[1] ?? 'memory'
    counts[role] = (counts[role] ?? 0) + length
  }
  expect(plan.parameters).toEqual(counts)
  expect(plan).toMatchObject({ stage: 'stage1', steps: 1, samplesPerStep: 3, memoryMode: 'fast' })
  // six passages, and as many pools and stretches; three paraphrases
  expect(plan.data.map(({ items }) => items)).toEqual([6, 6, 3, 6])
  // 3 samples, two fifths of them from the first file of six
  expect(plan.data[0]?.passes).toBeCloseTo((3 * 2) / 5 / 6, 12)
  const batch = plan.dimensions.find(({ name }) => name === 'batch')
  expect(batch).toEqual({ name: 'batch', mean: 3, largest: 3 })
  expect(plan.flopsPerStep).toBeGreaterThan(0)
  expect(plan.memoryMiB.fast).toBeGreaterThan(270)
})

test('twice the micro-batches are twice the operations and no more memory', async () => {
  const [one, two] = [await planStage(data.config()), await planStage(data.config({ accumulate: 2 }))]
  expect(two.flopsPerStep).toBeCloseTo(2 * one.flopsPerStep, 0)
  expect(two.memoryMiB).toEqual(one.memoryMiB)
})

test.each([
  ['stage2', ['decoder_adapter', 'query_reasoner_adapter']],
  ['stage2_pretrain_retrieval', ['query_reasoner_adapter']],
])('a plan of %s has the roles that learn there, and one mode', async (stage, roles) => {
  const pools = [{ file: join(data.folder, 'pools.jsonl'), task: 'answer' }]
  const plan = await planStage(data.config({ stage, data: pools, retrieval: { topK: 2, poolSize: 4 } }))
  expect(Object.keys(plan.parameters).sort()).toEqual(roles)
  expect(plan.memoryMiB.saving).toBeUndefined()
  expect(plan.flopsPerStep).toBeGreaterThan(0)
  expect(plan.data).toMatchObject([{ items: 6 }])
})

test('a plan of stage2_reasoning counts the generator alone', async () => {
  const rows = ['May', '1048'].map((answer, index) => ({
    question: `Q${index}?`,
    docs: [`D${index}.`],
    answer: `Look.<information>(1) It was in ${answer}.</information>${answer}`,
  }))
  const file = await data.write('reasoned.jsonl', rows.map((row) => `${JSON.stringify(row)}\n`).join(''))
  const plan = await planStage(
    data.config({ stage: 'stage2_reasoning', data: [{ file, task: 'answer' }], batchSize: 1 }),
  )
  expect(Object.keys(plan.parameters)).toEqual(['decoder_adapter'])
  expect(plan.data).toMatchObject([{ items: 2, passes: 5 }])
})

test('a reader of the full text costs operations', async () => {
  const [plain, distilled] = [await planStage(data.config()), await planStage(data.config({ distillation: {} }))]
  expect(distilled.flopsPerStep).toBeGreaterThan(1.1 * plain.flopsPerStep)
  expect(distilled.parameters).toEqual(plain.parameters)
})

describe('the mode within a memory budget', () => {
  const mode = (settings: object, estimate = { fast: 5000, saving: 1500 }) =>
    chooseMemoryMode({ distillation: undefined, ...settings }, estimate)

  test('is the fast one where it fits or nobody asks, else the saving one', () => {
    expect(mode({})).toBe('fast')
    expect(mode({ memoryBudgetMiB: 5000 })).toBe('fast')
    expect(mode({ memoryBudgetMiB: 4999 })).toBe('saving')
    expect(mode({ memoryBudgetMiB: 10, memoryMode: 'fast' })).toBe('fast')
  })

  test('is an error with both figures where none fits', () => {
    expect(() => mode({ memoryBudgetMiB: 1400 })).toThrow(/memoryBudgetMiB \(1400\).*5000 MiB, in the saving mode 1500/)
    expect(() => mode({ memoryBudgetMiB: 2000, frozenWeights: 'int8' })).toThrow(/5000 MiB\. /)
    expect(() => chooseMemoryMode({ distillation: undefined, memoryBudgetMiB: 2000 }, { fast: 3000 })).toThrow(
      /3000 MiB\. /,
    )
  })

  test('stops a run before it starts', async () => {
    const config = data.config({ memoryBudgetMiB: 100, output: join(data.folder, 'tight') })
    await expect(runStage({ config })).rejects.toThrow(/needs more memory than memoryBudgetMiB/)
  })
})

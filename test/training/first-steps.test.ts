import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { compareFirstSteps, type FirstSteps, firstStepsSchema, runFirstSteps } from '../../scripts/first-steps.ts'
import { readMetrics } from '../../src/training/metrics.ts'
import { runStage } from '../../src/training/stages/run.ts'
import { salient, type TinyData, tinyData } from './stages/tiny-run.ts'

let data: TinyData
let recipe: string
let recorded: FirstSteps
beforeAll(async () => {
  data = await tinyData()
  const file = join(data.folder, 'passages.jsonl')
  const evaluation = { every: 1, samples: 2, data: [{ file, task: 'answer' }] }
  const settings = data.settings({ compressor: salient, steps: 6, evaluation })
  recipe = await data.write('recipe.json', JSON.stringify(settings))
  recorded = await runFirstSteps(recipe, { steps: 3 })
})
afterAll(() => data[Symbol.asyncDispose]())

test('the first steps are those of the whole run', async () => {
  const config = data.config({ compressor: salient, steps: 6 })
  await runStage({ config })
  const lines = (await readMetrics(config.output)).filter(({ kind }) => kind === 'training')
  expect(recorded.losses).toEqual(lines.slice(0, 3).map(({ values }) => values['loss']))
  expect(recorded).toMatchObject({ recipe, environment: { threads: 1 }, settings: { steps: 6 } })
  await expect(runFirstSteps(recipe, { steps: 7 })).rejects.toThrow(/fewer steps than asked for/)
})

describe('a repetition', () => {
  const changed = (changes: object): FirstSteps => ({ ...recorded, ...changes })
  const nudged = (by: number) => changed({ losses: recorded.losses.map((loss) => loss + by) })
  const elsewhere = (steps: FirstSteps): FirstSteps => ({
    ...steps,
    environment: { ...steps.environment, threads: 64 },
  })

  test('agrees bit for bit here, also after the record was written and read', async () => {
    const read = firstStepsSchema.parse(JSON.parse(JSON.stringify(recorded)))
    expect(compareFirstSteps(read, await runFirstSteps(recipe, { steps: 3 }))).toEqual({ exact: true, problems: [] })
  })

  test('must agree to the bit where the arithmetic is the same, and to a thousandth elsewhere', () => {
    const { exact, problems } = compareFirstSteps(recorded, nudged(1e-6))
    expect(exact).toBe(true)
    expect(problems).toHaveLength(3)
    expect(problems[0]).toMatch(/^step 1: the loss was [\d.]+, now [\d.]+$/)
    expect(compareFirstSteps(recorded, elsewhere(nudged(9e-4)))).toEqual({ exact: false, problems: [] })
    expect(compareFirstSteps(recorded, elsewhere(nudged(1.1e-3))).problems).toHaveLength(3)
    expect(compareFirstSteps(recorded, changed({ losses: recorded.losses.slice(1) })).problems).not.toEqual([])
    for (const environment of [
      { ...recorded.environment, runtime: '0.0.1' },
      { ...recorded.environment, cpu: { ...recorded.environment.cpu, features: [] } },
    ]) {
      expect(compareFirstSteps(recorded, changed({ environment })).exact).toBe(false)
    }
  })

  test('of another recipe, or over other data, is told so', () => {
    const settings = { ...(recorded.settings as object), learningRate: 1 }
    const other = compareFirstSteps(recorded, changed({ settings }))
    expect(other.problems).toEqual([`${recipe} now says otherwise: learningRate`])
    const [first, ...rest] = recorded.data
    const files = [{ ...first, sha256: 'another' }, ...rest]
    expect(compareFirstSteps(recorded, changed({ data: files })).problems).toEqual([
      `${first?.file} is not what it was`,
    ])
  })
})

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { readLastCheckpoint } from '../../src/training/checkpoint.ts'
import { type TrainingConfig, trainingConfigSchema } from '../../src/training/config.ts'
import { composeStages, trainStages } from '../../src/training/train-all.ts'
import { train } from '../../src/training/trainer.ts'
import { linearModel, linearRows, rowBatches } from './linear-model.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'clara-all-'))
})
afterEach(() => rm(folder, { recursive: true, force: true }))

const schema = trainingConfigSchema({
  base: z.string(),
  initialise: z.string().optional(),
  embeddingSeed: z.number().default(0),
})
const data = [{ file: 'a.jsonl', task: 'answer' }]
const file = (changes: object = {}) => ({
  stages: { stage2: { steps: 4, data }, stage1: { steps: 6, data, learningRate: 0.05 } },
  output: folder,
  base: 'base.gguf',
  learningRate: 0.01,
  checkpoint: { steps: 1, keep: 2 },
  evaluation: { every: 2 },
  ...changes,
})

describe('the configurations of several stages', () => {
  it('come in the order of the stages, each with its folder and its beginning', () => {
    const [first, second, ...others] = composeStages(file(), schema, 'all.yaml')
    expect(others).toEqual([])
    expect(first).toMatchObject({ stage: 'stage1', output: join(folder, 'stage1'), steps: 6, learningRate: 0.05 })
    expect(first?.initialise).toBeUndefined()
    expect(second).toMatchObject({
      stage: 'stage2',
      output: join(folder, 'stage2'),
      initialise: join(folder, 'stage1'),
      learningRate: 0.01,
    })
  })

  it('learn to retrieve before they learn end to end', () => {
    const section = { steps: 1, data }
    const stages = { stage2_reasoning: section, stage2: section, stage2_pretrain_retrieval: section, stage1_2: section }
    expect(composeStages(file({ stages }), schema, 'all.yaml').map(({ stage }) => stage)).toEqual([
      'stage1_2',
      'stage2_pretrain_retrieval',
      'stage2',
      'stage2_reasoning',
    ])
  })

  it('take settings from the command line, for all stages or for one', () => {
    const set = [
      'seed=7',
      'stages.stage2.steps=5',
      'stages.stage1_2.steps=1',
      'stages.stage1_2.data=[{"file":"b","task":"answer"}]',
    ]
    const stages = composeStages(file(), schema, 'all.yaml', { set })
    expect(stages.map(({ stage, seed, steps }) => [stage, seed, steps])).toEqual([
      ['stage1', 7, 6],
      ['stage1_2', 7, 1],
      ['stage2', 7, 5],
    ])
    expect(stages[2]?.initialise).toBe(join(folder, 'stage1_2'))
  })

  it.each<[string, object, RegExp]>([
    ['no stages', { stages: {} }, /all\.yaml is not valid: stages: /],
    ['no stages at all', { stages: undefined }, /all\.yaml is not valid: stages: /],
    ['an unknown stage', { stages: { stage3: {} } }, /stages\.0: .*stage1/],
    ['no output', { output: undefined }, /output: /],
    [
      'an unknown setting',
      { stages: { stage1: { steps: 1, data, lr: 1 } } },
      /all\.yaml, stage stage1 is not valid: lr/,
    ],
    ['a section that is a list', { stages: { stage1: [] } }, /stages\.stage1 is no section/],
    ['a folder of its own', { stages: { stage1: { steps: 1, data, output: 'x' } } }, /stages\.stage1\.output: /],
    [
      'another rank in one stage',
      { stages: { stage1: { steps: 1, data }, stage2: { steps: 1, data, lora: { rank: 8 } } } },
      /differ in 'lora\.rank'/,
    ],
  ])('refuse %s', (_, changes, message) => {
    expect(() => composeStages(file(changes), schema, 'all.yaml')).toThrow(message)
  })

  it('are an object', () => {
    expect(() => composeStages([], schema, 'all.yaml')).toThrow(/not valid/)
  })
})

describe('training several stages', () => {
  const rows = linearRows(24)
  /** Trains a stage for real, from the parameters of the stage before. */
  const runner =
    (interruptAfter?: { stage: string; step: number }) => async (config: z.output<typeof schema>, resume: boolean) => {
      const model = linearModel()
      const before = config.initialise === undefined ? undefined : await readLastCheckpoint(config.initialise)
      if (!resume) for (const [name, values] of before?.parameters ?? []) model.parameters.get(name)?.set(values)
      const controller = new AbortController()
      return train({
        model,
        batches: rowBatches(rows, 4),
        config: config as TrainingConfig,
        runFolder: config.output,
        resume,
        signal: controller.signal,
        progress: {
          step: ({ step }) => {
            if (config.stage === interruptAfter?.stage && step === interruptAfter.step) controller.abort()
          },
        },
      })
    }
  const parameters = async (stage: string) => (await readLastCheckpoint(join(folder, stage)))?.parameters

  it('ends at the same parameters when it was interrupted in the middle', async () => {
    const whole = composeStages(file({ output: join(folder, 'whole') }), schema, 'a')
    await trainStages({ configs: whole, run: runner() })
    const expected = await parameters('whole/stage2')
    expect(expected?.get('weight')?.some((value) => value !== 0)).toBe(true)

    const configs = composeStages(file(), schema, 'a')
    const events: string[] = []
    const announce = (stage: string, state: string) => events.push(`${stage} ${state}`)
    const first = await trainStages({ configs, run: runner({ stage: 'stage1', step: 3 }), announce })
    expect(first).toMatchObject([{ stage: 'stage1', result: { reason: 'aborted', step: 3 } }])
    const second = await trainStages({ configs, run: runner({ stage: 'stage2', step: 1 }), resume: true, announce })
    expect(second).toMatchObject([{ result: { reason: 'finished' } }, { result: { reason: 'aborted', step: 1 } }])
    const third = await trainStages({ configs, run: runner(), resume: true, announce })
    expect(third).toMatchObject([{ result: 'skipped' }, { stage: 'stage2', result: { reason: 'finished', step: 4 } }])
    expect(events).toEqual(['stage1 starts', 'stage1 resumes', 'stage2 starts', 'stage1 skipped', 'stage2 resumes'])
    expect(await parameters('stage1')).toEqual(await parameters('whole/stage1'))
    expect(await parameters('stage2')).toEqual(expected)
  })

  it('refuses a folder with a run before any stage begins, and other settings for a stage that has ended', async () => {
    const configs = composeStages(file(), schema, 'a')
    await runner()({ ...(configs[1] as (typeof configs)[0]), initialise: undefined }, false)
    const events: string[] = []
    await expect(trainStages({ configs, run: runner(), announce: (stage) => events.push(stage) })).rejects.toThrow(
      /stage2 already holds a run/,
    )
    expect(events).toEqual([])
    await rm(join(folder, 'stage2'), { recursive: true })
    await trainStages({ configs, run: runner() })
    const other = composeStages(file(), schema, 'a', { set: ['stages.stage1.learningRate=0.5'] })
    await expect(trainStages({ configs: other, run: runner(), resume: true })).rejects.toThrow(
      /other settings: learningRate/,
    )
  })
})

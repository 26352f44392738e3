import { readFile } from 'node:fs/promises'
import { expect, test } from 'vitest'
import { parse } from 'yaml'
import { stageNames } from '../../src/training/config.ts'
import { composeConfig } from '../../src/training/run-config.ts'
import { stageConfigSchema } from '../../src/training/stages/config.ts'
import { composeStages } from '../../src/training/train-all.ts'

const least = { output: 'runs/a', steps: 100, base: 'base', data: [{ file: 'a.jsonl', task: 'answer' }] }
const compose = (stage: string, preset: string) =>
  composeConfig({ ...least, stage }, stageConfigSchema, stage, { preset })

test.each(stageNames.flatMap((stage) => ['paper', 'small'].map((preset) => [stage, preset] as const)))(
  'the settings of stage %s, preset %s, are known to the stage',
  (stage, preset) => {
    expect(compose(stage, preset)).toMatchObject({
      stage,
      weightDecay: 0,
      clip: 1,
      steps: 100,
      lora: { rank: 16, alpha: 32 },
    })
  },
)

test('the published values', () => {
  const [first, second, third] = ['stage1', 'stage1_2', 'stage2'].map((stage) => compose(stage, 'paper'))
  const samples = (config: typeof first) => (config?.batchSize ?? 0) * (config?.accumulate ?? 0)
  for (const config of [first, second]) {
    expect(samples(config)).toBe(128)
    expect(config).toMatchObject({
      learningRate: 1e-4,
      schedule: 'cosine',
      warmup: 0.03,
      minimumLearningRateFactor: 0.1,
      betas: [0.9, 0.95],
      mseWeight: 0.1,
      docMaxLength: 256,
      maxLength: 2048,
      lora: { dropout: 0.1 },
      compressor: { memory: 'tokens', similarity: 'flat', attention: 'causal' },
    })
  }
  expect(second?.documents).toEqual({ severalShare: 1, maximum: 5 })
  expect(samples(third)).toBe(32)
  expect(third).toMatchObject({
    learningRate: 5e-6,
    schedule: 'constant',
    maxLength: 1024,
    retrieval: { topK: 5, poolSize: 20, temperature: 0.02 },
  })
})

test('the example of several stages in the documentation is one', async () => {
  const [, yaml = ''] = /```yaml\n([^`]*)```/.exec(await readFile('docs/training.md', 'utf8')) ?? []
  const stages = composeStages(parse(yaml), stageConfigSchema, 'docs/training.md')
  expect(stages.map(({ stage, steps, output, initialise }) => ({ stage, steps, output, initialise }))).toEqual([
    { stage: 'stage1', steps: 1600, output: 'runs/mine/stage1', initialise: undefined },
    { stage: 'stage1_2', steps: 400, output: 'runs/mine/stage1_2', initialise: 'runs/mine/stage1' },
    { stage: 'stage2', steps: 300, output: 'runs/mine/stage2', initialise: 'runs/mine/stage1_2' },
  ])
  expect(stages.every(({ compressor }) => compressor.memory === 'salient')).toBe(true)
})

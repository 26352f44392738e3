import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { checkConfig, differingSettings, readConfig, trainingConfigSchema } from '../../src/training/config.ts'
import { composeConfig } from '../../src/training/run-config.ts'

const schema = trainingConfigSchema({
  compressor: z.strictObject({ ratio: z.number().default(4) }).prefault({}),
})
const least = { output: 'runs/a', steps: 100, data: [{ file: 'squad.jsonl', task: 'qa-pairs' }] }

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'clara-config-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

describe('the configuration of a training run', () => {
  it('needs only output, steps and data; the rest are the paper’s values', async () => {
    const path = join(folder, 'least.json')
    await writeFile(path, JSON.stringify(least))
    const config = await readConfig(path, schema)
    expect(config).toEqual({
      ...least,
      stage: 'stage1',
      seed: 0,
      batchSize: 8,
      accumulate: 1,
      learningRate: 1e-4,
      learningRateFactors: {},
      schedule: 'cosine',
      warmup: 0.03,
      minimumLearningRateFactor: 0.1,
      betas: [0.9, 0.95],
      epsilon: 1e-8,
      weightDecay: 0,
      clip: 1,
      lora: { rank: 16, alpha: 32, dropout: 0.1 },
      mseWeight: 0.1,
      data: [{ file: 'squad.jsonl', task: 'qa-pairs', weight: 1 }],
      evaluation: { every: 200, samples: 64, data: [], metric: 'loss', better: 'lower' },
      checkpoint: { minutes: 5, keep: 2 },
      compressor: { ratio: 4 },
    })
  })

  it('checks its own output to the same settings', () => {
    const config = checkConfig(least, schema, 'least')
    expect(checkConfig(config, schema, 'full')).toEqual(config)
  })

  it('scales by alpha / rank = 2 for any rank, unless alpha is given', () => {
    expect(checkConfig({ ...least, lora: { rank: 8 } }, schema, 'a').lora.alpha).toBe(16)
    expect(checkConfig({ ...least, lora: { rank: 8, alpha: 4 } }, schema, 'a').lora.alpha).toBe(4)
  })

  it.each<[string, Record<string, unknown>, RegExp]>([
    ['an unknown key', { learningrate: 1 }, /learningrate: no such setting/],
    ['an unknown key inside', { lora: { rnk: 8 } }, /lora\.rnk: no such setting/],
    ['an unknown key of another room', { compressor: { rate: 8 } }, /compressor\.rate: no such setting/],
    ['a wrong type', { steps: 'many' }, /steps: /],
    ['steps of none', { steps: 0 }, /steps: /],
    ['no data', { data: [] }, /data: /],
    ['an unknown task', { data: [{ file: 'a', task: 'poems' }] }, /data\.0\.task: /],
    ['a weight of none', { data: [{ file: 'a', task: 'answer', weight: 0 }] }, /data\.0\.weight: /],
    ['files left out of another task', { data: [{ file: 'a', task: 'answer', without: ['b'] }] }, /data\.0\.without: /],
    ['a beta of one', { betas: [0.9, 1] }, /betas\.1: /],
    ['several at once', { clip: -1, warmup: 2, nonsense: 1 }, /clip: .*warmup: |nonsense: .*/],
  ])('refuses %s by name', (_, change, message) => {
    expect(() => checkConfig({ ...least, ...change }, schema, 'run.json')).toThrow(message)
    expect(() => checkConfig({ ...least, ...change }, schema, 'run.json')).toThrow(
      /configuration run\.json is not valid/,
    )
  })

  it('refuses a file that is missing or not JSON', async () => {
    await expect(readConfig(join(folder, 'none.json'), schema)).rejects.toThrow(/none\.json cannot be read/)
    const path = join(folder, 'broken.json')
    await writeFile(path, '{ "steps": 5, }')
    await expect(readConfig(path, schema)).rejects.toThrow(/broken\.json is not JSON/)
  })
})

describe('comparing settings on resume', () => {
  it('names what differs, in dotted form, whatever the order of keys', () => {
    const config = { steps: 5, lora: { rank: 8, alpha: 16 }, data: [{ file: 'a' }], betas: [0.9, 0.95] }
    expect(differingSettings(config, { ...config, lora: { alpha: 16, rank: 8 } })).toEqual([])
    const other = { ...config, lora: { rank: 4, alpha: 16 }, data: [{ file: 'b' }], seed: 1 }
    expect(differingSettings(config, other)).toEqual(['data', 'lora.rank', 'seed'])
  })

  it('passes over what changes no number, and settings that are absent on both sides', () => {
    const saved = { minutes: 5, output: 'a', checkpoint: { keep: 1 }, steps: 3 }
    expect(
      differingSettings(saved, { output: 'b', checkpoint: { keep: 2, steps: 5 }, steps: 3, seed: undefined }),
    ).toEqual([])
  })
})

describe('the layers of a run’s configuration', () => {
  it('reads YAML as it reads JSON, and tells where it is broken', async () => {
    const path = join(folder, 'run.yaml')
    await writeFile(
      path,
      'output: runs/a\nsteps: 100\nlearningRate: 1e-4\ndata:\n  - { file: squad.jsonl, task: qa-pairs }\n',
    )
    expect(await readConfig(path, schema)).toEqual(checkConfig(least, schema, 'least'))
    await writeFile(path, 'output: runs/a\noutput: runs/b\n')
    await expect(readConfig(path, schema)).rejects.toThrow(/run\.yaml is not YAML: .*line 2/)
  })

  it('lays the command line over the file and the file over the preset', () => {
    const file = { ...least, preset: 'paper', learningRate: 3e-4, lora: { dropout: 0 } }
    const extra = trainingConfigSchema({
      compressor: z.looseObject({}).optional(),
      docMaxLength: z.number().default(8),
      maxLength: z.number().default(8),
      compressionRates: z.array(z.number()).default([]),
      differentMemTokens: z.boolean().default(false),
      questionsPerRow: z.number().default(6),
      documents: z.looseObject({}).optional(),
      retrieval: z.looseObject({}).optional(),
    })
    const config = composeConfig(file, extra, 'a', { set: ['lora.rank=4', 'accumulate=2'] })
    expect(config).toMatchObject({ learningRate: 3e-4, batchSize: 8, accumulate: 2, docMaxLength: 256 })
    expect(config.lora).toEqual({ rank: 4, alpha: 8, dropout: 0 })
    expect(config).not.toHaveProperty('preset')
    const third = composeConfig({ ...file, stage: 'stage1' }, extra, 'a', { set: ['stage=stage2', 'learningRate='] })
    expect(third).toMatchObject({ learningRate: 5e-6, schedule: 'constant', maxLength: 1024 })
    expect(() => composeConfig(file, extra, 'a', { preset: 'large' })).toThrow(/no preset "large".*paper, small/)
  })

  it('reads a value from the command line by the type of its setting', () => {
    const set = (...assignments: string[]) => composeConfig(least, schema, 'a', { set: assignments })
    expect(set('learningRate=1e-3').learningRate).toBe(1e-3)
    expect(set('output=runs/1e-3').output).toBe('runs/1e-3')
    expect(set('betas=[0.9,0.99]').betas).toEqual([0.9, 0.99])
    expect(set('data.0.weight=2', 'data.0.file=a=b').data).toEqual([{ file: 'a=b', task: 'qa-pairs', weight: 2 }])
    expect(set('learningRateFactors.salient.alpha=3').learningRateFactors).toEqual({ 'salient.alpha': 3 })
    expect(set('evaluation.metric=lossFullText', 'evaluation.every=5').evaluation).toMatchObject({
      metric: 'lossFullText',
      every: 5,
    })
    expect(set('compressor.ratio=8').compressor).toEqual({ ratio: 8 })
    expect(set('minutes=5', 'minutes=').minutes).toBeUndefined()
  })

  it.each([
    ['optimizer.lr=1e-4', /no setting 'optimizer\.lr'.*learningRate/],
    ['lora.rnk=4', /no setting 'lora\.rnk'.*rank, alpha, dropout in lora/],
    ['steps.more=4', /no setting 'steps\.more'/],
    ['data.first.weight=2', /no setting 'data\.first\.weight'/],
    ['data.7.weight=2', /passes the end of its list.*from 0 to 1/],
    ['__proto__.polluted=1', /no setting/],
    ['constructor=1', /no setting/],
    ['learningRate=fast', /'learningRate' is not understood.*a number.*"fast"/],
    ['learningRate=[1]', /'learningRate' is not understood.*a number/],
    ['betas=0.9,0.99', /'betas' is not understood.*JSON/],
    ['learningRate', /"learningRate" is not understood.*PATH=VALUE/],
    ['schedule=linear', /schedule: /],
  ])('refuses %s by name', (assignment, message) => {
    expect(() => composeConfig(least, schema, 'a', { set: [assignment] })).toThrow(message)
  })

  it('keeps hostile names in a file from reaching anything but the checks', () => {
    const hostile = JSON.parse('{ "__proto__": { "polluted": 1 }, "preset": "paper" }')
    expect(() => composeConfig({ ...least, ...hostile }, schema, 'a', { set: ['steps=5'] })).toThrow(/not valid/)
    expect(({} as { polluted?: number }).polluted).toBeUndefined()
  })
})

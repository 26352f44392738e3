import { appendFile, readdir, rm, truncate } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { checkConfig } from '../../../src/training/config.ts'
import { readMetrics } from '../../../src/training/metrics.ts'
import { stageConfigSchema } from '../../../src/training/stages/config.ts'
import { packRun } from '../../../src/training/stages/pack.ts'
import { runStage } from '../../../src/training/stages/run.ts'
import { salient, type TinyData, tinyData } from './tiny-run.ts'

let data: TinyData
beforeAll(async () => {
  data = await tinyData()
})
afterAll(() => data[Symbol.asyncDispose]())

const at = (name: string) => `${data.folder}/${name}`
let runs = 0
const run = (stage: string, file: string, changes: Record<string, unknown> = {}) => {
  const output = at(`run-${runs++}`)
  const config = data.config({
    stage,
    output,
    steps: 2,
    lora: { rank: 4, dropout: 0 },
    compressor: salient,
    memoryCache: at('memory'),
    retrieval: { topK: 2, poolSize: 4 },
    data: [{ file, task: 'answer' }],
    ...changes,
  })
  return Object.assign(runStage({ config }), { output })
}

interface Candidate {
  readonly text: string
  readonly supporting: boolean
}

const questionOf = (candidates: readonly Candidate[], answers = ['In May']) => ({
  id: 'q',
  question: 'When did it snow?',
  answers,
  candidates,
})
const write = (name: string, records: readonly unknown[]) =>
  data.write(name, records.map((record) => `${JSON.stringify(record)}\n`).join(''))
const [snow, rain, wind] = ['Snow fell in May.', 'Rain fell.', 'The wind blew.'].map((text) => ({
  text,
  supporting: false,
}))
const found = { text: 'Snow fell in May.', supporting: true }

describe('a configuration', () => {
  test.each([
    [
      { stage: 'stage2', retrieval: { topK: 5, poolSize: 4 } },
      /retrieval: a pool of 4 documents is smaller than topK \(5\)/,
    ],
    [{ stage: 'stage2', memoryMode: 'saving' }, /memoryMode: the stage 'stage2' has no saving mode/],
    [{ stage: 'stage2', distillation: {} }, /distillation: only the stages 'stage1' and 'stage1_2' distil/],
    [{ distillation: {}, memoryMode: 'saving' }, /distillation: needs memoryMode 'fast'/],
    [{ stage: 'stage2', retrieval: { k: 5 } }, /retrieval\.k: no such setting/],
    [{ generator: 'new' }, /generator: /],
  ])('refuses %j', (changes, message) => {
    expect(() => checkConfig(data.settings(changes), stageConfigSchema, 'run.json')).toThrow(message)
  })
})

describe('a pool', () => {
  test('that is smaller than topK is an error that names the question, unless it is filled', async () => {
    const file = await write('small.jsonl', [questionOf([found]), questionOf([found, rain ?? found])])
    await expect(run('stage2', file)).rejects.toThrow(
      /pool of the question "When did it snow\?" in .*small\.jsonl is smaller than topK.*at least 2.*1/s,
    )
    const retrieval = { topK: 2, poolSize: 2, negatives: 'random' }
    await expect(run('stage2', file, { retrieval })).resolves.toMatchObject({ reason: 'finished' })
    // nothing to choose from but two texts in all
    const greedy = { topK: 3, poolSize: 3, negatives: 'random' }
    await expect(run('stage2', file, { retrieval: greedy })).rejects.toThrow(/Cannot choose the 3 best of 2 documents/)
  })

  test('without a supporting candidate teaches nothing; a file of such is an error in pretraining alone', async () => {
    const none = [snow, rain, wind].flatMap((candidate) => candidate ?? [])
    const file = await write('none.jsonl', [questionOf(none)])
    await expect(run('stage2_pretrain_retrieval', file)).rejects.toThrow(
      /No question of .*none\.jsonl has a supporting candidate.*pos_index/s,
    )
    await expect(run('stage2', file)).resolves.toMatchObject({ reason: 'finished' })
    // a step whose batch happens to have none, and one that has
    const mixed = await write('mixed-labels.jsonl', [questionOf(none), questionOf([found, ...none.slice(1)])])
    await expect(run('stage2_pretrain_retrieval', mixed, { batchSize: 1 })).rejects.toThrow(/nothing to learn from/)
    const both = run('stage2_pretrain_retrieval', mixed, { batchSize: 2, retrieval: { inBatch: false } })
    await both
    const alone = await write('alone.jsonl', [questionOf([found, ...none.slice(1)])])
    const one = run('stage2_pretrain_retrieval', alone, { batchSize: 1, retrieval: { inBatch: false } })
    await one
    // the unlabelled question is left out of the mean
    const [[left], [right]] = [await readMetrics(both.output), await readMetrics(one.output)]
    expect(left?.values['loss']).toBeCloseTo(right?.values['loss'] ?? Number.NaN, 4)
  })

  test('may name a published pos_index, which must lie within it', async () => {
    const row = { question: 'When did it snow?', docs: ['Rain fell.', 'Snow fell in May.'], answer: 'In May' }
    const good = await write('published.jsonl', [{ ...row, pos_index: [1] }])
    const retrieval = { inBatch: false }
    await expect(run('stage2_pretrain_retrieval', good, { retrieval })).resolves.toMatchObject({ reason: 'finished' })
    const beyond = await write('beyond.jsonl', [{ ...row, pos_index: [2] }])
    await expect(run('stage2_pretrain_retrieval', beyond)).rejects.toThrow(/beyond\.jsonl:1: .*pos_index.*document 2/)
  })

  test('with an empty document is an error with file and line; white space has a memory like all others', async () => {
    const empty = await write('empty.jsonl', [questionOf([found, { text: '', supporting: false }])])
    await expect(run('stage2', empty)).rejects.toThrow(/empty\.jsonl:1: .*candidates\.1\.text/)
    const blank = await write('blank.jsonl', [questionOf([found, { text: ' \n', supporting: false }])])
    await expect(run('stage2', blank)).resolves.toMatchObject({ reason: 'finished' })
  })
})

test('an answer longer than the window is cut; where none of it is left, the error says what to do', async () => {
  const file = await write('long.jsonl', [questionOf([found, rain ?? found], ['word '.repeat(500)])])
  const changes = { retrieval: { topK: 1, poolSize: 2 } }
  await expect(run('stage2', file, { ...changes, maxLength: 150 })).resolves.toMatchObject({ reason: 'finished' })
  await expect(run('stage2', file, { ...changes, maxLength: 40 })).rejects.toThrow(/Raise the maximal length/)
})

test('another task, or a file without questions, is an error', async () => {
  const file = at('pools.jsonl')
  await expect(run('stage2', file, { data: [{ file, task: 'qa-pairs' }] })).rejects.toThrow(
    /task 'qa-pairs' has no place in stage 2/,
  )
  await expect(run('stage2', at('paraphrases.jsonl'))).rejects.toThrow(/holds nothing for a stage that retrieves/)
  const endless = await write('endless.jsonl', [{ question: 'When?', answer: 'So <information>(1) it' }])
  await expect(run('stage2_reasoning', endless)).rejects.toThrow(
    /"When\?" in .*endless\.jsonl has an <information> that does/,
  )
})

test('damaged memories are made again', async () => {
  const memoryCache = at('damaged')
  const evaluate = () => run('stage2', at('pools.jsonl'), { memoryCache })
  expect(await evaluate()).toMatchObject({ compressed: 6 })
  const [folder = ''] = await readdir(memoryCache)
  const [file = ''] = await readdir(`${memoryCache}/${folder}`)
  await truncate(`${memoryCache}/${folder}/${file}`, 200)
  expect(await evaluate()).toMatchObject({ compressed: 6 })
  expect(await evaluate()).toMatchObject({ compressed: 0 })
  await appendFile(`${memoryCache}/${folder}/memory-zz.txt`, 'foreign')
  expect(await evaluate()).toMatchObject({ compressed: 0 })
})

test('a run without what its stage left as it was can neither go on nor be packed', async () => {
  const file = at('pools.jsonl')
  const started = run('stage2', file, { output: at('torn') })
  await started
  await rm(`${at('torn')}/frozen.safetensors`)
  await expect(packRun({ runFolder: at('torn'), modelFolder: at('torn-model'), which: 'last' })).rejects.toThrow(
    /torn lacks frozen\.safetensors/,
  )
  const settings = { stage: 'stage2', compressor: salient, memoryCache: at('memory'), output: at('torn') }
  const config = data.config({ ...settings, data: [{ file, task: 'answer' }], retrieval: { topK: 2, poolSize: 4 } })
  await expect(runStage({ config, resume: true })).rejects.toThrow(/torn lacks frozen\.safetensors/)
})

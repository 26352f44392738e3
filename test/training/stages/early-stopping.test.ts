import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { readBestCheckpoint, readLastCheckpoint } from '../../../src/training/checkpoint.ts'
import { stageTools } from '../../../src/training/stages/material.ts'
import { runStage } from '../../../src/training/stages/run.ts'
import { chunkPassage } from '../../../src/training/stages/samples.ts'
import { type TinyData, tinyData } from './tiny-run.ts'

let data: TinyData
beforeAll(async () => {
  data = await tinyData()
})
afterAll(() => data[Symbol.asyncDispose]())

test('a stage goes on from the best parameters of one that early stopping ended', async () => {
  const file = join(data.folder, 'passages.jsonl')
  // calling a higher loss better makes each step of a model that learns a worse one
  const evaluation = { every: 1, patience: 1, better: 'higher', samples: 6, data: [{ file, task: 'answer' }] }
  const lora = { rank: 4, dropout: 0 }
  const first = data.config({ output: join(data.folder, 'first'), steps: 9, evaluation, lora })
  expect(await runStage({ config: first })).toMatchObject({ reason: 'stopped improving', step: 2, best: { step: 1 } })
  const next = { output: join(data.folder, 'next'), steps: 1, learningRate: 1e-30, initialise: first.output, lora }
  await runStage({ config: data.config(next) })
  const [begun, best, last] = [
    await readLastCheckpoint(join(data.folder, 'next')),
    await readBestCheckpoint(first.output),
    await readLastCheckpoint(first.output),
  ]
  expect(begun?.parameters).toEqual(best?.parameters)
  expect(begun?.parameters).not.toEqual(last?.parameters)
})

test('free answers count where the whole passage is read, others where they occur', async () => {
  const options = (await stageTools(data.config())).optionsAt(4)
  const qa = [
    { question: 'How so?', answers: ['in other words'] },
    { question: 'What?', answers: ['fox'] },
  ]
  const answers = (text: string, free?: boolean) =>
    chunkPassage({ text, qa, ...(free === undefined ? {} : { free }) }, options).map((chunk) =>
      chunk.qa.map(({ answer }) => answer),
    )
  expect(answers('A red fox.', true)).toEqual([['in other words', 'fox']])
  expect(answers('A red fox.')).toEqual([['fox']])
  expect(answers(`A red fox. ${'and so on '.repeat(40)}`, true)).toEqual([['fox']])
})

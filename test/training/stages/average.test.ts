import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { loadModel, readAdapters } from '../../../src/clara/model.ts'
import { packRun } from '../../../src/training/stages/pack.ts'
import { runStage } from '../../../src/training/stages/run.ts'
import { salient, type TinyData, tinyData } from './tiny-run.ts'

let data: TinyData
let at: (name: string) => string
beforeAll(async () => {
  data = await tinyData()
  at = (name) => join(data.folder, name)
  await runStage({ config: data.config({ output: at('early'), steps: 1, compressor: salient }) })
  await runStage({
    config: data.config({
      output: at('late'),
      steps: 3,
      learningRate: 0.05,
      initialise: at('early'),
      compressor: salient,
    }),
  })
  for (const name of ['early', 'late']) {
    await packRun({ runFolder: at(name), modelFolder: at(`${name}-model`), which: 'last' })
  }
})
afterAll(() => data[Symbol.asyncDispose]())

const parametersOf = async (name: string) => (await readAdapters(at(name))).parameters

test('a checkpoint is averaged with a model, parameter by parameter', async () => {
  await packRun({
    runFolder: at('late'),
    modelFolder: at('mean'),
    which: 'last',
    averageWith: at('early-model'),
  })
  const [early, late, mean] = await Promise.all(['early-model', 'late-model', 'mean'].map(parametersOf))
  expect([...(mean?.keys() ?? [])].sort()).toEqual([...(late?.keys() ?? [])].sort())
  let moved = 0
  for (const [name, { data: values }] of mean ?? []) {
    const [before, after] = [early?.get(name)?.data ?? [], late?.get(name)?.data ?? []]
    for (const [index, value] of values.entries()) {
      const [one, other] = [Number(before[index]), Number(after[index])]
      // what is stored is rounded to 16 bits
      expect(Math.abs(Number(value) - (one + other) / 2)).toBeLessThanOrEqual(
        1e-3 * (Math.abs(one) + Math.abs(other)) + 1e-7,
      )
      if (one !== other) moved++
    }
  }
  expect(moved).toBeGreaterThan(100)
  expect((await loadModel(at('mean'))).config).toEqual((await loadModel(at('late-model'))).config)
})

test('a model that does not fit is refused', async () => {
  const otherRank = { rank: 2, alpha: 4, dropout: 0 }
  await runStage({
    config: data.config({ output: at('narrow'), steps: 1, compressor: salient, lora: otherRank }),
  })
  await packRun({ runFolder: at('narrow'), modelFolder: at('narrow-model'), which: 'last' })
  const average = (averageWith: string) =>
    packRun({ runFolder: at('late'), modelFolder: at('never'), which: 'last', averageWith })
  await expect(average(at('narrow-model'))).rejects.toThrow(/narrow-model cannot be averaged.*is not alike.*same base/)
  await expect(average(at('nowhere'))).rejects.toThrow(/There is no CLaRa model in .*nowhere/)
})

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type EngineFigures, measureEngine } from '../../bench/engine/engine.ts'
import { rowsOf, type Target } from '../../bench/table.ts'
import { packRun } from '../../src/training/stages/pack.ts'
import { runStage } from '../../src/training/stages/run.ts'
import { tinyBase } from '../clara/tiny.ts'
import { salient, type TinyData, tinyData } from '../training/stages/tiny-run.ts'

const sizes = {
  training: { batchSize: 2, documentPositions: 12, memoryTokens: 2, promptPositions: 10, labels: 3 },
  matmul: 32,
  readMebibytes: 1,
  documents: 3,
  documentTokens: 8,
  comprRate: 4,
  newTokens: 3,
  documentsPerQuestion: 2,
}

let data: TinyData
let figures: EngineFigures
const measured: string[] = []

beforeAll(async () => {
  data = await tinyData()
  const model = join(data.folder, 'model')
  const output = join(data.folder, 'run')
  await runStage({ config: data.config({ output, steps: 1, compressor: salient }) })
  await packRun({ runFolder: output, modelFolder: model, which: 'last' })
  const texts = [
    'The bridges were closed for nine days.',
    'No.',
    'Rain fell on the hills in May.',
    'Anna built a boat.',
  ]
  const qa = [{ question: 'What?', answers: ['That.'] }]
  const records = texts.map((text, index) => JSON.stringify({ id: String(index), text, qa }))
  const passages = await data.write('bench.jsonl', `${records.join('\n')}\n`)
  const options = { base: tinyBase(), tokenizer: tinyBase(), model, passages, threads: 1, repetitions: 2, sizes }
  figures = await measureEngine(options, (name) => measured.push(name))
})
afterAll(() => data[Symbol.asyncDispose]())

describe('the engine group', () => {
  test('prints the figures that docs/benchmarks.md names, and no others', () => {
    const documentation = readFileSync(join(import.meta.dirname, '..', '..', 'docs', 'benchmarks.md'), 'utf8')
    const named = [...documentation.matchAll(/^\| `([\w.]+)` \|/gm)].map(([, name]) => name)
    const printed = rowsOf(JSON.parse(JSON.stringify(figures)), []).map(({ figure }) => figure)
    expect(printed.sort()).toEqual(named.sort())
  })

  test('every figure is a positive number', () => {
    for (const { figure, value } of rowsOf(figures, [])) expect(value, figure).toBeGreaterThan(0)
  })

  test('int8 memories resemble the float32 ones, and are not the same', () => {
    const { compressor } = figures
    for (const { minCosine, meanCosine } of [compressor, compressor.default]) {
      expect(minCosine).toBeLessThanOrEqual(meanCosine)
      expect(meanCosine).toBeLessThan(1)
      expect(meanCosine).toBeGreaterThan(0.9)
    }
  })

  test('a prompt with memory is shorter than one with text', () => {
    expect(figures.firstToken.promptTokens.memory).toBeLessThan(figures.firstToken.promptTokens.text)
  })

  test('says what it measures', () => expect(measured).toContain('training'))
})

describe('rows', () => {
  const targets: Target[] = [
    { figure: 'a.b', atLeast: 2 },
    { figure: 'c', atMost: 1 },
  ]
  test('stand beside their targets', () => {
    expect(rowsOf({ a: { b: 2, other: 5 }, c: 1.5 }, targets)).toEqual([
      { figure: 'a.b', value: 2, reached: true, target: '>= 2' },
      { figure: 'a.other', value: 5, reached: undefined, target: '' },
      { figure: 'c', value: 1.5, reached: false, target: '<= 1' },
    ])
  })
})

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { measureStages, type StagesFigures } from '../../bench/stages/stages.ts'
import { rowsOf } from '../../bench/table.ts'
import { tinyBase } from '../clara/tiny.ts'
import { type TinyData, tinyData } from '../training/stages/tiny-run.ts'

let data: TinyData
let figures: StagesFigures
const measured: string[] = []

beforeAll(async () => {
  data = await tinyData()
  figures = await measureStages(
    {
      base: tinyBase(),
      tokenizer: tinyBase(),
      pools: join(data.folder, 'pools.jsonl'),
      passages: join(data.folder, 'passages.jsonl'),
      threads: 1,
      repetitions: 2,
      sizes: {
        batches: 2,
        questions: 2,
        poolSize: 4,
        topK: 2,
        rows: 2,
        settings: { docMaxLength: 24, maxLength: 400, lora: { rank: 4 }, compressor: { compressorLayers: 2 } },
      },
      work: join(data.folder, 'work'),
    },
    (name) => measured.push(name),
  )
})
afterAll(() => data[Symbol.asyncDispose]())

test('stage 2 compresses nothing while it learns, and every other figure is a positive number', () => {
  const { compressorRuns, ...others } = figures.stages.stage2
  expect(compressorRuns).toBe(0)
  for (const { figure, value } of rowsOf({ others, int8: figures.stages.int8OverFp32 }, [])) {
    expect(value, figure).toBeGreaterThan(0)
  }
})

test('prints the figures that docs/training.md names, and no others', () => {
  const documentation = readFileSync(join(import.meta.dirname, '..', '..', 'docs', 'training.md'), 'utf8')
  const named = [...documentation.matchAll(/^\| `((?:stages\.|threads)[\w.]*)` \|/gm)].map(([, name]) => name)
  const printed = rowsOf(JSON.parse(JSON.stringify(figures)), []).map(({ figure }) => figure)
  expect(printed.sort()).toEqual(named.sort())
})

test('says what it measures', () => expect(measured).toHaveLength(2))

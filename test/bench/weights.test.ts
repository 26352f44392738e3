import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { loadAndUse } from '../../bench/large/large.ts'
import { measureKind } from '../../bench/weights/kind.ts'
import { type KindFigures, weightsTable } from '../../bench/weights/weights.ts'
import { mistral, writeRandomCheckpoint } from '../../scripts/write-random-checkpoint.ts'
import { type WeightKind, weightKinds } from '../../src/model/weight-kinds.ts'
import { type TinyData, tinyData } from '../training/stages/tiny-run.ts'

let work: string
let data: TinyData
beforeAll(async () => {
  work = await mkdtemp(join(tmpdir(), 'clara-bench-'))
  data = await tinyData()
  const small = { layers: 2, hidden: 128, intermediate: 256, heads: 4, 'key-value-heads': 2, vocabulary: 1000, rank: 4 }
  await writeRandomCheckpoint(work, { ...mistral, ...small, 'doc-max-length': 32, 'shard-mib': 1 })
})
afterAll(async () => {
  await rm(work, { recursive: true, force: true })
  await data[Symbol.asyncDispose]()
})

test('the weights group compares the kinds, and a smaller kind takes less memory', async () => {
  const texts = ['The bridges were closed for nine days.', 'Anna built a boat.']
  const qa = [{ question: 'What?', answers: ['That.'] }]
  const records = texts.map((text, index) => JSON.stringify({ id: String(index), text, qa }))
  const passages = await data.write('weights.jsonl', `${records.join('\n')}\n`)
  const model = join(work, 'checkpoint')
  const options = { model, passages, documents: 2, newTokens: 2, threads: 1, repetitions: 1, work }
  const figures: Partial<Record<WeightKind, KindFigures>> = {}
  for (const kind of weightKinds) figures[kind] = await measureKind({ ...options, kind })
  const { fp32, fp16, int8, int4 } = figures as Record<WeightKind, KindFigures>
  for (const found of [fp32, fp16, int8, int4]) {
    for (const value of Object.values(found)) expect(value).toBeGreaterThan(0)
    expect(found.minCosine).toBeLessThanOrEqual(found.meanCosine)
    expect(Math.abs(found.answerLoss - fp32.answerLoss)).toBeLessThan(0.5)
  }
  expect(fp32.minCosine).toBeCloseTo(1, 6)
  expect(fp16.minCosine).toBeGreaterThan(int4.minCosine)
  expect(fp32.weightsMiB).toBeGreaterThan(fp16.weightsMiB)
  expect(fp16.weightsMiB).toBeGreaterThan(int4.weightsMiB)
  const table = weightsTable({ fp32, fp16, int8, int4 })
  expect(table.split('\n').map((line) => line.split('|')[1]?.trim())).toEqual(['weights', '---', ...weightKinds])
})

test.each([false, true])('the large group loads and uses a checkpoint (low memory: %s)', async (lowMemory) => {
  const options = { checkpoint: join(work, 'checkpoint'), weights: 'int4', lowMemory, threads: 1 } as const
  const measured = await loadAndUse({ ...options, cache: join(work, 'cache'), memories: 5, newTokens: 3, use: true })
  expect(measured).toMatchObject({ documentTokens: 32, peakMiB: expect.any(Number) })
  for (const value of Object.values(measured as Record<string, number>)) expect(value).toBeGreaterThanOrEqual(0)
})

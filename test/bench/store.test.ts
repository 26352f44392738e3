import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type IngestFigures, measureIngest } from '../../bench/ingest/ingest.ts'
import { addAndTell } from '../../bench/ingest/peak.ts'
import { openBruteForce } from '../../bench/store/brute-force.ts'
import { openExactSearch } from '../../bench/store/exact-search.ts'
import { FILLER_COSINE, filledUp } from '../../bench/store/material.ts'
import { quantile } from '../../bench/store/retrieval.ts'
import { measureStore, type StoreFigures } from '../../bench/store/store.ts'
import { rowsOf } from '../../bench/table.ts'
import type { Memory } from '../../src/clara/encoder.ts'
import { memorySimilarity } from '../../src/clara/similarity.ts'
import { createRandom } from '../../src/data/random.ts'
import { openRuntime } from '../../src/runtime/runtime.ts'
import { dequantiseMemory, quantiseMemory } from '../../src/store/quantise.ts'
import { packRun } from '../../src/training/stages/pack.ts'
import { runStage } from '../../src/training/stages/run.ts'
import { salient, type TinyData, tinyData } from '../training/stages/tiny-run.ts'

const random = createRandom(3)
const memory = (n: number, width: number): Memory => ({
  tokens: Float32Array.from({ length: n * width }, () => random.normal()),
  shape: [n, width],
})

test('fillers stand at their cosine from real memories, and are the same every time', () => {
  const real = [3, 5].map((n) => ({ text: `${n} tokens`, memory: memory(n, 32) }))
  const [first, again] = [[...filledUp(real, 7)], [...filledUp(real, 7)]]
  expect(first).toEqual(again)
  expect(first.slice(0, 2)).toEqual(real)
  expect(first.map(({ text }) => text)).toEqual(Array.from({ length: 7 }, (_, index) => real[index % 2]?.text))
  for (const [index, { memory }] of first.entries()) {
    const source = real[index % 2]?.memory.tokens ?? new Float32Array()
    for (let start = 0; start < memory.tokens.length; start += 32) {
      const [a, b] = [memory.tokens.subarray(start, start + 32), source.subarray(start, start + 32)]
      const cosine = memorySimilarity('flat', a, b, 32)
      expect(cosine).toBeCloseTo(index < 2 ? 1 : FILLER_COSINE, 5)
      expect(Math.hypot(...a)).toBeCloseTo(Math.hypot(...b), 4)
    }
  }
  expect(first[2]?.memory.tokens).not.toEqual(first[4]?.memory.tokens)
})

test('brute force gives the score of every memory, up to the rounding of the question to 16 bits or to 8', async () => {
  const memories = Array.from({ length: 41 }, (_, index) => {
    const { tokens, shape } = memory(1 + (index % 3), 32)
    return quantiseMemory({ dtype: 'float32', tokens, n: shape[0], width: 32 })
  })
  await using runtime = await openRuntime({ threads: 1 })
  await using rounded = await openBruteForce(runtime, memories)
  await using exact = openExactSearch(memories, 2)
  for (const question of [memory(4, 32), memory(1, 32)]) {
    const [of8, of16] = [await rounded.scores(question), await exact.scores(question)]
    for (const [index, stored] of memories.entries()) {
      const score = memorySimilarity('maxsim', question.tokens, dequantiseMemory(stored).tokens, 32)
      expect(Math.abs((of8[index] ?? Number.NaN) - score)).toBeLessThan(0.03)
      expect(Math.abs((of16[index] ?? Number.NaN) - score)).toBeLessThan(2e-4)
    }
  }
})

test('a quantile is the value that a share is not above', () => {
  const values = Array.from({ length: 100 }, (_, index) => (index * 37) % 100)
  expect([0.5, 0.95, 1].map((share) => quantile(values, share))).toEqual([49, 94, 99])
})

test('the process whose memory is measured adds every passage', async () => {
  const data = await tinyData()
  try {
    const told = await addAndTell({ passages: 20, shape: [3, 16], store: join(data.folder, 'peak') })
    expect(told).toEqual({ peakMiB: expect.any(Number), compressed: 20 })
  } finally {
    await data[Symbol.asyncDispose]()
  }
})

describe('the store and ingest groups', () => {
  let data: TinyData
  let store: StoreFigures
  let ingest: IngestFigures
  beforeAll(async () => {
    data = await tinyData()
    const model = join(data.folder, 'model')
    const output = join(data.folder, 'run')
    await runStage({ config: data.config({ output, steps: 1, compressor: { ...salient, similarity: 'maxsim' } }) })
    await packRun({ runFolder: output, modelFolder: model, which: 'last' })
    const pools = [join(data.folder, 'pools.jsonl')]
    const passages = join(data.folder, 'passages.jsonl')
    const quiet = () => undefined
    const sizes = {
      realPassages: 6,
      passages: 60,
      questions: 3,
      growth: [40, 80],
      growthQuestions: 2,
      lossPassages: 2,
      batch: 16,
    } as const
    store = await measureStore(
      { model, train: pools, dev: pools, passages, threads: 1, work: data.folder, sizes, growth: true },
      quiet,
    )
    const few = { passages: 4, files: 3, passagesPerFile: 2, peak: [8, 16] } as const
    ingest = await measureIngest(
      { model, train: pools, threads: 1, work: data.folder, sizes: few, shape: [3, 16] },
      quiet,
    )
  })
  afterAll(() => data[Symbol.asyncDispose]())

  test('prints the figures that docs/store.md names, and no others', () => {
    const documentation = readFileSync(join(import.meta.dirname, '..', '..', 'docs', 'store.md'), 'utf8')
    const named = [...documentation.matchAll(/^\| `([\w.]+)` \|/gm)].map(([, name]) => name)
    const printed = [...rowsOf(store, []), ...rowsOf(ingest, [])].map(({ figure }) => figure)
    expect([...new Set(printed)].sort()).toEqual(named.sort())
  })

  test('every figure is a number, and what is bounded is within its bounds', () => {
    for (const { figure, value } of [...rowsOf(store, []), ...rowsOf(ingest, [])]) {
      expect(value, figure).toBeTypeOf('number')
      expect(Number.isFinite(value), figure).toBe(true)
      if (!['store.int8LossChange', 'ingest.overhead'].includes(figure)) expect(value, figure).toBeGreaterThan(0)
    }
    expect(store.store.recallAt10OfExact).toBe(1)
    expect(Math.abs(store.store.int8LossChange)).toBeLessThan(0.5)
    expect(ingest.ingest.overhead).toBeLessThan(1)
    expect(ingest.ingest.secondOverFirst).toBeLessThan(1)
  })
})

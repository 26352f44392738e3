import { join } from 'node:path'
import type { Memory } from '../../src/clara/encoder.ts'
import { createRandom } from '../../src/data/random.ts'
import { openLanceStore } from '../../src/store/lancedb/driver.ts'
import { buildLateFile } from '../../src/store/lancedb/late.ts'
import { openTables } from '../../src/store/lancedb/tables.ts'
import { dequantiseMemory } from '../../src/store/quantise.ts'
import type { Int8Memory, StoreRow } from '../../src/store/store.ts'
import { median } from '../measure.ts'
import { rowOf, searchAll } from './retrieval.ts'

export interface GrowthFigures {
  /** Time of a search in the larger store / in the smaller one. */
  readonly growth: number
  readonly smallMs: number
  readonly largeMs: number
}

export interface GrowthOptions {
  readonly sizes: readonly [small: number, large: number]
  readonly questions: number
  readonly batch: number
  /** Memory of a passage: tokens and their width. */
  readonly shape: readonly [tokens: number, width: number]
  readonly work: string
}

/** Memories that there are before noise. */
const FAMILIES = 3_000
const NUMBERS = 1 << 22

/** How the time of a search grows with a store; its passages are made up, in the shape that the model makes. */
export async function measureGrowth(
  options: GrowthOptions,
  report: (measuring: string) => void,
): Promise<GrowthFigures> {
  const times: number[] = []
  for (const rows of options.sizes) {
    report(`search among ${rows} passages`)
    times.push(await searchTime(rows, options))
  }
  const [smallMs = Number.NaN, largeMs = Number.NaN] = times
  return { growth: largeMs / smallMs, smallMs, largeMs }
}

async function searchTime(count: number, { questions, batch, shape, work }: GrowthOptions): Promise<number> {
  const [n, width] = shape
  const fingerprint = 'stub'
  const folder = join(work, `rows-${count}`)
  const description = { fingerprint, memoryWidth: width, vectorWidth: 0 }
  const memoryOf = stubMemories(n, width)
  const store = await openLanceStore(folder, { description, background: false })
  try {
    for (let start = 0; start < count; start += batch) {
      const rows = Array.from({ length: Math.min(batch, count - start) }, (_, index): StoreRow => {
        const row = start + index
        return rowOf(row, `passage ${row}`, memoryOf(row))
      })
      await store.add(rows, { fingerprint })
    }
    // the index alone: joining files would write everything once more
    const tables = await openTables(folder, 0)
    await buildLateFile(folder, tables, width)
    tables.connection.close()
    const asked = Array.from({ length: questions }, (_, index): Memory => {
      const { tokens } = dequantiseMemory(memoryOf(index * 7 + 1))
      const few = Math.min(n, 5)
      return { tokens: tokens.slice(0, few * width), shape: [few, width] }
    })
    return median((await searchAll(store, fingerprint, asked)).times)
  } finally {
    await store.close()
  }
}

/** Made-up memories: families of near neighbours, as the fillers among the real ones are. */
function stubMemories(n: number, width: number): (row: number) => Int8Memory {
  const random = createRandom(8)
  const numbers = Int8Array.from({ length: NUMBERS }, () => Math.max(-127, Math.min(127, random.normal() * 40)))
  const length = n * width
  const scales = new Float32Array(n).fill(0.01)
  return (row) => {
    const [base, noise] = [(row % FAMILIES) * 1_009, (row * 6_151) % (NUMBERS - length)]
    const tokens = new Int8Array(length)
    // .9 and .44 of 128
    for (let index = 0; index < length; index++) {
      tokens[index] = ((numbers[base + index] ?? 0) * 115 + (numbers[noise + index] ?? 0) * 56) >> 7
    }
    return { dtype: 'int8', tokens, scales, n, width }
  }
}

import { join } from 'node:path'
import type { Memory } from '../../src/clara/encoder.ts'
import { memorySimilarity } from '../../src/clara/similarity.ts'
import { rank, type SearchTarget } from '../../src/knowledge/search.ts'
import { openRuntime } from '../../src/runtime/runtime.ts'
import { openLanceStore } from '../../src/store/lancedb/driver.ts'
import { quantiseMemory } from '../../src/store/quantise.ts'
import type { Int8Memory, Store, StoreRow } from '../../src/store/store.ts'
import { median, milliseconds } from '../measure.ts'
import { type BruteForce, openBruteForce } from './brute-force.ts'
import { openExactSearch } from './exact-search.ts'
import { filledUp, type Material } from './material.ts'

export interface RetrievalFigures {
  readonly recallAt10OfExact: number
  readonly bruteForceOverSearch: number
  readonly integerBruteForceOverSearch: number
  readonly searchP95Ms: number
  readonly searchMedianMs: number
  readonly bruteForceMs: number
  readonly integerBruteForceMs: number
  readonly bytesPerChunk: number
  readonly kilobytesPerChunk: number
}

export interface RetrievalOptions {
  readonly material: Material
  readonly passages: number
  readonly batch: number
  readonly threads: number
  /** Folder for the store. */
  readonly work: string
}

const TOP = 10
/** Questions that the integer brute force is timed with. */
const TIMED = 40

/** Two-step retrieval against comparing with every passage. */
export async function measureRetrieval(
  options: RetrievalOptions,
  report: (measuring: string) => void,
): Promise<RetrievalFigures> {
  const { material } = options
  const { store, best, bruteForceMs, integerBruteForceMs, float32Bytes } = await filledAndCompared(options, report)
  await using opened = store
  const { bytes, chunks } = await opened.stats()
  report('search')
  const { times, found } = await searchAll(opened, material.fingerprint, material.questions)
  let common = 0
  best.forEach((ids, index) => {
    common += ids.filter((id) => found[index]?.includes(id)).length
  })
  const searchP95Ms = quantile(times, 0.95)
  return {
    recallAt10OfExact: common / best.reduce((sum, ids) => sum + ids.length, 0),
    bruteForceOverSearch: bruteForceMs / searchP95Ms,
    integerBruteForceOverSearch: integerBruteForceMs / searchP95Ms,
    searchP95Ms,
    searchMedianMs: median(times),
    bruteForceMs,
    integerBruteForceMs,
    bytesPerChunk: bytes / float32Bytes,
    kilobytesPerChunk: bytes / chunks / 1000,
  }
}

/** The store, and what brute force finds in its memories and takes for it. These go before searches are timed: a program that searches does not hold them. */
async function filledAndCompared(options: RetrievalOptions, report: (measuring: string) => void) {
  const { material, threads } = options
  const { questions } = material
  report('writing passages into a store')
  const { store, memories, float32Bytes } = await filledStore(options)
  report('brute force')
  const exact = await bruteForce(openExactSearch(memories, threads), questions)
  report('brute force with a rounded question')
  const integerBruteForceMs = await integerBruteForce(memories, questions, threads)
  const best = exact.scores.map(tenBest)
  return { store, best, bruteForceMs: median(exact.times), integerBruteForceMs, float32Bytes }
}

async function filledStore({ material, passages, batch, work }: RetrievalOptions): Promise<{
  readonly store: Store
  readonly memories: readonly Int8Memory[]
  readonly float32Bytes: number
}> {
  const { fingerprint } = material
  const memoryWidth = material.passages[0]?.memory.shape[1] ?? 0
  const description = { fingerprint, memoryWidth, vectorWidth: 0 }
  const store = await openLanceStore(join(work, 'passages'), { description, background: false })
  const memories: Int8Memory[] = []
  let float32Bytes = 0
  let rows: StoreRow[] = []
  const write = async () => {
    await store.add(rows, { fingerprint })
    await store.putDocuments(
      rows.map(({ documentId, contentHash }) => ({ documentId, contentHash, chunks: 1, details: null })),
    )
    rows = []
  }
  for (const { text, memory } of filledUp(material.passages, passages)) {
    const [n, width] = memory.shape
    const int8 = quantiseMemory({ dtype: 'float32', tokens: memory.tokens, n, width })
    float32Bytes += memory.tokens.byteLength
    rows.push(rowOf(memories.length, text, int8))
    memories.push(int8)
    if (rows.length === batch) await write()
  }
  if (rows.length > 0) await write()
  await store.compact()
  return { store, memories, float32Bytes }
}

/** A row as a knowledge base would write it. */
export function rowOf(index: number, text: string, memory: Int8Memory): StoreRow {
  return {
    id: `${index}#0`,
    documentId: String(index),
    chunk: 0,
    text,
    metadata: { 'clara.place': { start: 0, end: text.length } },
    // as long as a real one, and as hard to compress
    contentHash: Array.from({ length: 8 }, (_, part) =>
      (Math.imul(index + 1, 2654435761 + part) >>> 0).toString(16).padStart(8, '0'),
    ).join(''),
    memory,
    vector: new Float32Array(),
  }
}

async function bruteForce(opened: BruteForce, questions: readonly Memory[]) {
  await using brute = opened
  const times: number[] = []
  const scores: Float32Array[] = []
  for (const [index, question] of questions.entries()) {
    const time = await milliseconds(async () => {
      scores.push(await brute.scores(question))
    })
    // the first one finds nothing prepared
    if (index > 0 || questions.length === 1) times.push(time)
  }
  return { times, scores }
}

/** Median time of the fastest brute force there is here; it rounds the question too. */
async function integerBruteForce(memories: readonly Int8Memory[], questions: readonly Memory[], threads: number) {
  await using runtime = await openRuntime({ threads })
  const { times } = await bruteForce(await openBruteForce(runtime, memories), questions.slice(0, TIMED))
  return median(times)
}

function tenBest(scores: Float32Array): string[] {
  return Array.from(scores, (score, index) => ({ index, score }))
    .sort((one, other) => other.score - one.score || one.index - other.index)
    .slice(0, TOP)
    .map(({ index }) => `${index}#0`)
}

/** Searches with every question twice, and counts the second time. */
export async function searchAll(store: Store, fingerprint: string, questions: readonly Memory[]) {
  const width = store.description.memoryWidth
  const target: SearchTarget = {
    clara: {
      model: { fingerprint, config: { compressor: { similarity: 'maxsim' } } },
      score: (question, document) => memorySimilarity('maxsim', question.tokens, document.tokens, width),
    },
    store,
    vectorOf: () => new Float32Array(),
  }
  const search = (question: Memory) => rank('', question, target, { mode: 'latent', topK: TOP })
  for (const question of questions) await search(question)
  const times: number[] = []
  const found: string[][] = []
  for (const question of questions) {
    let ids: readonly string[] = []
    times.push(
      await milliseconds(async () => {
        ids = (await search(question)).ids
      }),
    )
    found.push([...ids])
  }
  return { times, found }
}

/** The value that a share of some values is not above. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((one, other) => one - other)
  return sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN
}

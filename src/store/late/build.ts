import { randomBytes } from 'node:crypto'
import { type FileHandle, open, rename, rm } from 'node:fs/promises'
import { setImmediate as breathe } from 'node:timers/promises'
import { bytesOf } from '../codec.ts'
import { slices } from '../slices.ts'
import { centreOf, encodeRow, packRows, type RowCode, signBytes, summaryBytes } from './codes.ts'
import { Arena, openKernel } from './kernel.ts'
import { encodeTable, LARGEST_CLUSTER, type LateTable, placesOf } from './late-file.ts'
import { xorshift } from './xorshift.ts'

/** Rows that the centre is the mean of. */
const CENTRE_ROWS = 256
/** Clusters by content at most; each adds a comparison to every search. */
const MOST_LEADERS = 4_096
/** Rows that differ from a leader in less than this share of their summaries' signs belong to it; unrelated ones differ in about half. */
const LIKE = 0.24
/** Times that all rows find their cluster: centres settle. */
const ROUNDS = 2
/** Rows that are worked on before others get their turn. */
const TURN = 64

/** A row of the store. */
export interface KeyedMemory {
  /** Tells the row, as it is, from all others. */
  readonly key: number
  /** [n, width] */
  readonly tokens: Float32Array
}

/** Writes the index of some rows, whole or not at all, in memory that grows by about a hundred bytes a row. @returns How many rows it holds. */
export async function writeLateFile(path: string, width: number, rows: AsyncIterable<KeyedMemory>): Promise<number> {
  const name = randomBytes(6).toString('hex')
  const [scratchPath, temporary] = [`${path}.${name}.rows.tmp`, `${path}.${name}.tmp`]
  try {
    const scratch = await open(scratchPath, 'w+')
    try {
      const gathered = await gather(scratch, width, rows)
      const file = await open(temporary, 'w')
      try {
        await writeClusters(file, scratch, gathered)
        await file.sync()
      } finally {
        await file.close()
      }
      await rename(temporary, path)
      return gathered.counts.length
    } finally {
      await scratch.close()
    }
  } finally {
    await Promise.all([scratchPath, temporary].map((one) => rm(one, { force: true })))
  }
}

interface Gathered {
  readonly width: number
  readonly centre: Float32Array
  readonly keys: readonly number[]
  readonly counts: readonly number[]
  readonly summaries: Summaries
}

/** Encodes all rows into the scratch file, signs and factors of one after the other. */
async function gather(scratch: FileHandle, width: number, rows: AsyncIterable<KeyedMemory>): Promise<Gathered> {
  const [keys, counts]: number[][] = [[], []]
  const summaries = new Summaries(summaryBytes(width))
  let first: KeyedMemory[] = []
  let centre: Float32Array | undefined
  let turn: KeyedMemory[] = []
  const encode = async (some: readonly KeyedMemory[]) => {
    const around = centre ?? new Float32Array(width)
    const parts: Uint8Array[] = []
    for (const { key, tokens } of some) {
      const { n, signs, factors, summary } = encodeRow(tokens, width, around)
      keys?.push(key)
      counts?.push(n)
      summaries.push(summary)
      parts.push(signs, bytesOf(factors))
    }
    await scratch.appendFile(Buffer.concat(parts))
    await breathe()
  }
  const begin = async () => {
    centre = centreOf(
      first.map(({ tokens }) => tokens),
      width,
    )
    for (let start = 0; start < first.length; start += TURN) await encode(first.slice(start, start + TURN))
    first = []
  }
  for await (const row of rows) {
    if (centre === undefined) {
      first.push(row)
      if (first.length === CENTRE_ROWS) await begin()
      continue
    }
    turn.push(row)
    if (turn.length < TURN) continue
    await encode(turn)
    turn = []
  }
  if (centre === undefined) await begin()
  await encode(turn)
  return { width, centre: centre ?? new Float32Array(width), keys: keys ?? [], counts: counts ?? [], summaries }
}

async function writeClusters(file: FileHandle, scratch: FileHandle, gathered: Gathered): Promise<void> {
  const { width, centre, keys, counts, summaries } = gathered
  const { clusters, loose } = await clustersOf(summaries, width)
  const order = clusters.flat()
  const table: LateTable = {
    width,
    centre,
    clusterRows: Uint32Array.from(clusters, ({ length }) => length),
    counts: Uint16Array.from(order, (row) => counts[row] ?? 0),
    keys: Float64Array.from(order, (row) => keys[row] ?? 0),
    loose,
  }
  const bytes = signBytes(width)
  const starts = new Float64Array(counts.length)
  let end = 0
  for (const [row, n] of counts.entries()) {
    starts[row] = end
    end += n * (bytes + 2)
  }
  const codeOf = async (row: number): Promise<Pick<RowCode, 'n' | 'signs' | 'factors'>> => {
    const n = counts[row] ?? 0
    const kept = new Uint8Array(n * (bytes + 2))
    await scratch.read(kept, 0, kept.length, starts[row] ?? 0)
    return { n, signs: kept.subarray(0, n * bytes), factors: new Uint16Array(kept.slice(n * bytes).buffer) }
  }
  const write = async (some: readonly number[]) => {
    const codes: Pick<RowCode, 'n' | 'signs' | 'factors'>[] = []
    for (const row of some) codes.push(await codeOf(row))
    const { signs, factors } = packRows(codes, width)
    await file.appendFile(signs)
    await file.appendFile(bytesOf(factors))
  }
  const head = encodeTable(table)
  await file.appendFile(head)
  const { leaders } = placesOf(table, head.length)
  for (const { first, rows } of leaders) {
    await write(clusters.slice(first, first + rows).flatMap(([leader]) => (leader === undefined ? [] : [leader])))
  }
  for (const cluster of clusters) await write(cluster.slice(1))
}

/**
 * Rows of like content together: a row joins the nearest centre, and becomes one itself where none is near, as long as there are not too many; then again,
 * around the centres of what has come together, which are nearer to all of it than the row that happened to come first. Rows are looked at in an order that
 * is mixed but always the same, so that centres come from everywhere. In the end each list's first, its leader, is the row that stands for it best.
 */
async function clustersOf(summaries: Summaries, width: number): Promise<Clusters> {
  const order = mixed(summaries.length)
  let found: Clusters = { clusters: [], loose: 0 }
  for (let round = 0; round < ROUNDS; round++) {
    const centres: Uint8Array[] = []
    for (const cluster of found.clusters) {
      // a cluster of one row has no say: the row may join another, or begin again
      if (cluster.length > 1) centres.push(majorityOf(cluster, summaries))
      await breathe()
    }
    found = await gatherAround(centres, summaries, order, width)
  }
  const parts = found.clusters.flatMap((cluster) => slices(cluster, LARGEST_CLUSTER))
  for (const part of parts) {
    medoidFirst(part, summaries)
    await breathe()
  }
  return { clusters: parts, loose: found.loose }
}

interface Clusters {
  readonly clusters: readonly number[][]
  /** Rows that are near no centre. */
  readonly loose: number
}

/** Every row goes to the nearest centre; where none is near it becomes one, as long as there are not too many. */
async function gatherAround(
  centres: readonly Uint8Array[],
  summaries: Summaries,
  order: Uint32Array,
  width: number,
): Promise<Clusters> {
  const { bytes, length } = summaries
  const { memory, nearest } = openKernel()
  const arena = new Arena(memory)
  const query = arena.take(bytes)
  const strings = arena.take(bytes * Math.max(centres.length, Math.min(length, MOST_LEADERS)))
  const view = new Uint8Array(memory.buffer)
  for (const [index, centre] of centres.entries()) view.set(centre, strings + index * bytes)
  const clusters = centres.map((): number[] => [])
  let loose = 0
  for (const [turn, row] of order.entries()) {
    if (turn % TURN === TURN - 1) await breathe()
    const summary = summaries.at(row)
    view.set(summary, query)
    const best = clusters.length === 0 ? 0xffff : nearest(query, strings, clusters.length, bytes)
    const isNear = (best & 0xffff) <= LIKE * width
    if (!isNear && clusters.length < MOST_LEADERS) {
      view.set(summary, strings + clusters.length * bytes)
      clusters.push([row])
      continue
    }
    clusters[best >>> 16]?.push(row)
    if (!isNear) loose++
  }
  return { clusters: clusters.filter(({ length: rows }) => rows > 0), loose }
}

/** Of each bit, the rows of a cluster that have it, less those that have not. */
function votesOf(cluster: readonly number[], summaries: Summaries): Int32Array {
  const votes = new Int32Array(summaries.bytes * 8)
  for (const row of cluster) {
    const summary = summaries.at(row)
    for (let bit = 0; bit < votes.length; bit++) votes[bit] = (votes[bit] ?? 0) + 2 * bitAt(summary, bit) - 1
  }
  return votes
}

/** The bit string that differs least from all of a cluster. */
function majorityOf(cluster: readonly number[], summaries: Summaries): Uint8Array {
  const majority = new Uint8Array(summaries.bytes)
  for (const [bit, votes] of votesOf(cluster, summaries).entries()) {
    if (votes > 0) majority[bit >> 3] = (majority[bit >> 3] ?? 0) | (1 << (bit & 7))
  }
  return majority
}

/** Puts the row first whose summary differs least from those of all rows of its cluster. */
function medoidFirst(cluster: number[], summaries: Summaries): void {
  // a row's distances from all others add up to a constant less the votes for its own bits
  const votes = votesOf(cluster, summaries)
  let [place, most] = [0, Number.NEGATIVE_INFINITY]
  for (const [index, row] of cluster.entries()) {
    const summary = summaries.at(row)
    let own = 0
    for (let bit = 0; bit < votes.length; bit++) own += (votes[bit] ?? 0) * bitAt(summary, bit)
    if (own > most) [place, most] = [index, own]
  }
  const [first, medoid] = [cluster[0], cluster[place]]
  if (first === undefined || medoid === undefined) return
  cluster[0] = medoid
  cluster[place] = first
}

const bitAt = (string: Uint8Array, bit: number): number => ((string[bit >> 3] ?? 0) >> (bit & 7)) & 1

/** 0 to count - 1, each once, in an order that depends on nothing but the count. */
function mixed(count: number): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, index) => index)
  const next = xorshift(0x9e3779b9)
  for (let index = count - 1; index > 0; index--) {
    const other = next() % (index + 1)
    const kept = order[index] ?? 0
    order[index] = order[other] ?? 0
    order[other] = kept
  }
  return order
}

/** Many bit strings of one length, without an object for each. */
class Summaries {
  readonly bytes: number
  #bytes = new Uint8Array(1 << 16)
  #length = 0

  constructor(bytes: number) {
    this.bytes = bytes
  }

  get length(): number {
    return this.#length
  }

  push(summary: Uint8Array): void {
    const start = this.#length++ * this.bytes
    if (start + this.bytes > this.#bytes.length) {
      const grown = new Uint8Array(2 * (start + this.bytes))
      grown.set(this.#bytes)
      this.#bytes = grown
    }
    this.#bytes.set(summary, start)
  }

  at(index: number): Uint8Array {
    return this.#bytes.subarray(index * this.bytes, (index + 1) * this.bytes)
  }
}

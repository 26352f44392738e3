import { bytesOf } from '../codec.ts'
import { slices } from '../slices.ts'
import {
  type AskedToken,
  askedTokens,
  BLOCK,
  blocksFor,
  FACTOR,
  type PackedRows,
  packRows,
  type RowCode,
  signBytes,
} from './codes.ts'
import { Arena, openKernel } from './kernel.ts'
import { type ClusterPlace, LARGEST_CLUSTER, type LateFile } from './late-file.ts'

/** Rows of the file that a search looks at beyond the leaders: as many at least, and for each that is asked for. */
const SCANNED = 512
const SCANNED_PER_ROW = 4
/** Clusters whose rows it looks at, at least: where these are large, a few of them would be all. */
const CLUSTERS = 16
/** So many more where all rows are loose, whose leaders say little of them; a share of it by the share of these. */
const SCANNED_LOOSE = 65_536
/** Signs that are held in memory; with more, all are let go and read again as they are needed. Bytes. */
const MOST_HELD = 512 * 2 ** 20

/** Clusters that are put in order at a time. */
const SORTED = 64
/** Tokens of a question that the kernel compares at once. */
const TOGETHER = 4
/** Entries of a code's table. */
const TABLE = 16

/** A row that was found, by its number in the index. */
export interface Estimate {
  readonly row: number
  /** About the mean over the question's tokens of the best cosine with a token of the row. */
  readonly score: number
}

export interface FindOptions {
  readonly limit: number
  /** Which rows to consider. Default: all. */
  readonly passes?: (row: number) => boolean
  /** Look at every row. Default: false. */
  readonly exhaustive?: boolean
}

/** Rows that lie together below their leader, or leaders, in the kernel's memory once they were needed. */
interface Cluster {
  readonly first: number
  readonly rows: number
  readonly tokens: number
  readonly read: () => PackedRows
  held: Held | undefined
}

/** Where a cluster's signs, factors and the ends of its rows' tokens are in the kernel's memory. */
interface Held {
  readonly signs: number
  readonly factors: number
  readonly ends: number
}

/**
 * Finds the rows whose memory is nearest a question's by late interaction, by their sign codes. Rows of like content lie together in clusters; of each the
 * leader is compared, then the clusters with the best leaders are looked at in that order, a bounded number of rows. Rows that came
 * after the file was written are all looked at.
 */
export class LateIndex {
  readonly width: number
  readonly centre: Float32Array
  readonly #file: LateFile | undefined
  readonly #kernel = openKernel()
  readonly #arena = new Arena(this.#kernel.memory)
  readonly #leaders: Cluster[]
  readonly #clusters: Cluster[]
  readonly #fresh: Cluster[] = []
  /** Tokens of each row. */
  readonly #counts: number[]
  /** Capacities, in tokens, of what the kernel's memory begins with: tables of a question, sums of a cluster. */
  #askedTokens = 16
  #clusterTokens = BLOCK
  /** Tokens of the cluster, or group of leaders, with most of them. */
  #mostTokens = 0
  #tables = 0
  #sums = 0
  #scores = 0
  #base = 0

  /** @param centre For rows without a file; a file has its own. */
  constructor(file: LateFile | undefined, centre: Float32Array) {
    this.#file = file
    this.centre = file?.centre ?? centre
    this.width = this.centre.length
    const clusterOf = (place: ClusterPlace): Cluster => ({
      ...place,
      read: () => {
        if (file === undefined) throw new RangeError('There is no file.')
        return file.read(place)
      },
      held: undefined,
    })
    this.#leaders = (file?.leaders ?? []).map(clusterOf)
    this.#clusters = (file?.clusters ?? []).map(clusterOf)
    this.#counts = Array.from(file?.counts ?? [])
    for (const { tokens } of [...this.#leaders, ...this.#clusters])
      this.#mostTokens = Math.max(this.#mostTokens, tokens)
    this.#layOut()
  }

  /** Rows, those of the file first. */
  get rows(): number {
    return this.#counts.length
  }

  /** Rows that came after the file was written. */
  get fresh(): number {
    return this.#counts.length - (this.#file?.counts.length ?? 0)
  }

  /** Adds rows, whose numbers follow those that are there. */
  add(codes: readonly RowCode[]): void {
    for (let start = 0; start < codes.length; start += LARGEST_CLUSTER) {
      const some = codes.slice(start, start + LARGEST_CLUSTER)
      const packed = packRows(some, this.width)
      const tokens = some.reduce((sum, { n }) => sum + n, 0)
      this.#mostTokens = Math.max(this.#mostTokens, tokens)
      this.#fresh.push({ first: this.rows, rows: some.length, tokens, read: () => packed, held: undefined })
      for (const { n } of some) this.#counts.push(n)
    }
  }

  /** @param tokens The question's memory tokens, [n, width]. @returns The best first, equal ones by number. */
  find(tokens: Float32Array, { limit, passes, exhaustive = false }: FindOptions): Estimate[] {
    const question = askedTokens(tokens, this.width, this.centre)
    const asked = slices(question, TOGETHER)
    this.#ask(asked, question.length)
    const best = new Best(limit)
    const offer = (row: number, score: number): number => {
      if (passes !== undefined && !passes(row)) return 0
      best.offer(row, score / question.length)
      return 1
    }
    const look = (cluster: Cluster): number => {
      if (cluster.rows === 0 || (passes !== undefined && !anyPasses(cluster, passes))) return 0
      const scores = this.#score(cluster, asked)
      let considered = 0
      for (let index = 0; index < cluster.rows; index++) {
        considered += offer(cluster.first + index, scores[index] ?? 0)
      }
      return considered
    }
    for (const cluster of this.#fresh) look(cluster)
    const { counts, loose } = this.#file ?? { counts: [], loose: 0 }
    const most = Math.max(SCANNED, SCANNED_PER_ROW * limit) + (SCANNED_LOOSE * loose) / Math.max(1, counts.length)
    let [leaders, considered, clusters] = [0, 0, 0]
    for (const { cluster, score } of this.#byLeader(asked)) {
      // a leader behind so many others is not among the best
      if (leaders < limit) leaders += offer(cluster.first - 1, score)
      const isEnough = considered >= most && clusters >= CLUSTERS && !exhaustive
      if (isEnough && leaders >= limit) break
      if (isEnough) continue
      const found = look(cluster)
      considered += found
      if (found > 0) clusters++
    }
    return best.taken()
  }

  close(): void {
    this.#file?.close()
  }

  /** The clusters with their leaders' scores, the best first. */
  *#byLeader(asked: readonly Together[]): Generator<{ readonly cluster: Cluster; readonly score: number }> {
    const scores = new Float64Array(this.#clusters.length)
    for (const group of this.#leaders) scores.set(this.#score(group, asked, true), group.first)
    for (const index of descending(scores, SORTED)) {
      const cluster = this.#clusters[index]
      if (cluster !== undefined) yield { cluster, score: scores[index] ?? 0 }
    }
  }

  /** Writes a question's tables into the kernel's memory. */
  #ask(asked: readonly Together[], length: number): void {
    if (length > this.#askedTokens || this.#mostTokens > this.#clusterTokens) {
      this.#askedTokens = Math.max(length, this.#askedTokens)
      this.#clusterTokens = Math.max(this.#mostTokens, this.#clusterTokens)
      this.#layOut()
    }
    const memory = new Uint8Array(this.#kernel.memory.buffer)
    let place = this.#tables
    for (const together of asked) {
      const tables = interleaved(together)
      memory.set(tables, place)
      place += tables.length
    }
  }

  #layOut(): void {
    this.#arena.reset(0)
    this.#tables = this.#arena.take((this.#askedTokens + TOGETHER) * signBytes(this.width) * 32)
    this.#sums = this.#arena.take(blocksFor(this.#clusterTokens) * BLOCK * 2 * TOGETHER)
    this.#scores = this.#arena.take(LARGEST_CLUSTER * 4)
    this.#base = this.#arena.used
    this.#letGo()
  }

  #letGo(): void {
    this.#arena.reset(this.#base)
    for (const clusters of [this.#leaders, this.#clusters, this.#fresh]) {
      for (const cluster of clusters) cluster.held = undefined
    }
  }

  #hold(cluster: Cluster, areLeaders: boolean): Held {
    if (cluster.held !== undefined) return cluster.held
    const { signs, factors } = cluster.read()
    const bytes = signs.length + factors.byteLength + 4 * cluster.rows
    if (this.#arena.used + bytes > MOST_HELD && this.#arena.used > this.#base) this.#letGo()
    const ends = new Uint32Array(cluster.rows)
    let end = 0
    for (let index = 0; index < cluster.rows; index++) {
      const row = areLeaders ? (this.#clusters[cluster.first + index]?.first ?? 1) - 1 : cluster.first + index
      end += this.#counts[row] ?? 0
      ends[index] = end
    }
    const put = (part: Uint8Array) => {
      const address = this.#arena.take(part.length)
      new Uint8Array(this.#kernel.memory.buffer).set(part, address)
      return address
    }
    cluster.held = { signs: put(signs), factors: put(bytesOf(factors)), ends: put(bytesOf(ends)) }
    return cluster.held
  }

  /** Estimates of a cluster's rows, or of a group of leaders'. What is returned holds until the next call. */
  #score(cluster: Cluster, asked: readonly Together[], areLeaders = false): Float32Array {
    const { signs, factors, ends } = this.#hold(cluster, areLeaders)
    const { memory, sumTables, sumTablesOfFour, addBest } = this.#kernel
    const bytes = signBytes(this.width)
    const blocks = blocksFor(cluster.tokens)
    const scores = new Float32Array(memory.buffer, this.#scores, cluster.rows)
    scores.fill(asked.flat().reduce((sum, { base }) => sum + base, 0))
    let tables = this.#tables
    for (const together of asked) {
      const sum = together.length === 1 ? sumTables : sumTablesOfFour
      sum(signs, blocks, bytes, tables, this.#sums)
      tables += placesFor(together) * bytes * 32
      for (const [index, { scale, bias }] of together.entries()) {
        const sums = this.#sums + index * blocks * BLOCK * 2
        addBest(sums, factors, ends, cluster.rows, scale / FACTOR, bias / FACTOR, this.#scores)
      }
    }
    return scores
  }
}

/** Tokens of a question that are compared at once: at most {@link TOGETHER}. */
type Together = readonly AskedToken[]

/** Tables that tokens take which are compared at once: one alone has its own loop, two or three leave places empty. */
const placesFor = (together: Together): number => (together.length === 1 ? 1 : TOGETHER)

/** The tables of some tokens, those of each code side by side. */
function interleaved(asked: Together): Uint8Array {
  const places = placesFor(asked)
  const together = new Uint8Array(places * (asked[0]?.tables.length ?? 0))
  for (const [index, { tables }] of asked.entries()) {
    for (let start = 0; start < tables.length; start += TABLE) {
      together.set(tables.subarray(start, start + TABLE), start * places + index * TABLE)
    }
  }
  return together
}

/** Places of the scores, the best first, equal ones by place; so many are sorted at a time, since few are mostly asked for. */
function* descending(scores: Float64Array, portion: number): Generator<number> {
  const sorted = scores.slice().sort()
  let above = Number.POSITIVE_INFINITY
  for (let left = sorted.length; left > 0; ) {
    const least = sorted[Math.max(0, left - portion)] ?? Number.NEGATIVE_INFINITY
    const places: number[] = []
    for (let place = 0; place < scores.length; place++) {
      const score = scores[place] ?? 0
      if (score >= least && score < above) places.push(place)
    }
    if (places.length === 0) return
    yield* places.sort((one, other) => (scores[other] ?? 0) - (scores[one] ?? 0) || one - other)
    above = least
    left -= places.length
  }
}

function anyPasses({ first, rows }: Cluster, passes: (row: number) => boolean): boolean {
  for (let row = first; row < first + rows; row++) if (passes(row)) return true
  return false
}

/** Keeps the best of what it is offered. */
class Best {
  readonly #limit: number
  #kept: Estimate[] = []
  #least = Number.NEGATIVE_INFINITY

  constructor(limit: number) {
    this.#limit = limit
  }

  offer(row: number, score: number): void {
    if (score < this.#least) return
    this.#kept.push({ row, score })
    if (this.#kept.length >= 4 * this.#limit + 512) this.#prune()
  }

  taken(): Estimate[] {
    this.#prune()
    return this.#kept
  }

  #prune(): void {
    this.#kept.sort((one, other) => other.score - one.score || one.row - other.row)
    this.#kept = this.#kept.slice(0, this.#limit)
    if (this.#kept.length === this.#limit) this.#least = this.#kept.at(-1)?.score ?? this.#least
  }
}

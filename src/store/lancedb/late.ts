import { stat } from 'node:fs/promises'
import type { Table } from '@lancedb/lancedb'
import type { RecordBatch } from 'apache-arrow'
import { type KeyedMemory, writeLateFile } from '../late/build.ts'
import { centreOf, encodeRow } from '../late/codes.ts'
import { identityOf, openLateFile } from '../late/late-file.ts'
import { type Estimate, LateIndex } from '../late/late-index.ts'
import { scoreMemories } from '../late/scorer.ts'
import { dequantiseMemory } from '../quantise.ts'
import { slices } from '../slices.ts'
import type { Candidate, StoredMemory, StoreStats } from '../store.ts'
import { lateFile } from './folder.ts'
import { FILE } from './format/manifest.ts'
import { MemoryReader } from './memories.ts'
import { RowNames } from './names.ts'
import { binaryColumn, memoryAt, textColumn } from './rows.ts'
import { byScore } from './search.ts'
import { pinned, type Tables } from './tables.ts'

/*
 * The late-interaction index beside LanceDB's table. The table alone says which rows there are: a row of the index is told by its checksum, and
 * used where the table has it; rows that the file lacks are read and encoded when the store is searched. LanceDB numbers rows by file · 2^32 + position, so
 * new ones have greater numbers, and those that were joined into a new file are found there by their checksums.
 */

/** Rows that are read at a time. */
const READ = 256
/** So many rows make a file worth having, and so many new ones, or this share, a new one. */
const LEAST = 1_000
const NEW_SHARE = 1 / 3
/** Of a row that is gone. */
const GONE = -1

export interface LateQuery {
  /** [n, width] */
  readonly tokens: Float32Array
  readonly limit: number
  /** A condition on the table's rows. */
  readonly condition: string | undefined
  readonly exhaustive: boolean
}

/** The index as one process uses it. */
export class LateSearch {
  readonly #folder: string
  readonly #tables: Tables
  readonly #width: number
  #index: LateIndex | undefined
  #identity = ''
  /** Version of the table that the places belong to. */
  #version: number | undefined
  /** Where each row of the index is in the table, or {@link GONE}; and which row has a key. */
  #places: number[] = []
  #rowOf = new Map<number, number>()
  #live = 0
  #highest = -1
  #refreshing: Promise<LateIndex> | undefined
  #names = new RowNames()
  readonly #memories: MemoryReader

  constructor(folder: string, tables: Tables, width: number) {
    this.#folder = folder
    this.#tables = tables
    this.#width = width
    this.#memories = new MemoryReader(folder)
  }

  /** Rows that the file lacks, as far as is known; 0 before the first search. */
  get fresh(): number {
    return this.#index?.fresh ?? 0
  }

  async find(query: LateQuery): Promise<Candidate[]> {
    for (let attempt = 1; ; attempt++) {
      const index = await this.#refreshed()
      const passing = query.condition === undefined ? undefined : await this.#passing(query.condition)
      const { tokens, limit, exhaustive } = query
      const passes = (row: number) => {
        const place = this.#places[row] ?? GONE
        return place !== GONE && (passing === undefined || passing.has(place))
      }
      const found = index.find(tokens, { limit, passes, exhaustive })
      const candidates = await this.#score(found, tokens)
      // Rows that went meanwhile, or were joined into a new file: what is there now is looked at again.
      if (candidates.length === found.length || attempt === 3) return candidates
      this.#version = undefined
    }
  }

  close(): void {
    this.#index?.close()
    this.#index = undefined
  }

  /** One refresh at a time, for all searches that wait for it. */
  async #refreshed(): Promise<LateIndex> {
    this.#refreshing ??= this.#refresh().finally(() => {
      this.#refreshing = undefined
    })
    return this.#refreshing
  }

  async #refresh(): Promise<LateIndex> {
    const { rows } = this.#tables
    const version = await rows.version()
    const identity = await stat(lateFile(this.#folder)).then(identityOf, () => '')
    if (this.#index !== undefined && version === this.#version && identity === this.#identity) return this.#index
    if (this.#index === undefined || identity !== this.#identity) await this.#open()
    const index = this.#index
    if (index === undefined) throw new RangeError('The index was closed.')
    await this.#place(index, `_rowid >= ${(this.#highest + 1) * FILE}`)
    if (this.#live !== (await rows.countRows())) {
      // some are gone, or elsewhere
      this.#places.fill(GONE)
      this.#live = 0
      this.#highest = -1
      await this.#place(index, undefined)
    }
    await this.#memories.turnTo(version)
    this.#version = version
    return index
  }

  async #open(): Promise<void> {
    this.close()
    const file = openLateFile(lateFile(this.#folder), this.#width)
    this.#identity = file?.identity ?? (await stat(lateFile(this.#folder)).then(identityOf, () => ''))
    this.#index = new LateIndex(file, file?.centre ?? (await this.#centre()))
    this.#places = Array.from(file?.keys ?? [], () => GONE)
    this.#rowOf = new Map(Array.from(file?.keys ?? [], (key, row) => [key, row]))
    this.#names = new RowNames()
    this.#live = 0
    this.#highest = -1
  }

  /** For a store without a file. */
  async #centre(): Promise<Float32Array> {
    const memories: Float32Array[] = []
    for await (const batch of this.#tables.rows.query().select(['memory']).limit(READ)) {
      for (let index = 0; index < batch.numRows; index++) memories.push(tokensOf(batch, index, this.#width))
    }
    return centreOf(memories, this.#width)
  }

  /** Notes where rows are, and adds those that the index lacks. */
  async #place(index: LateIndex, condition: string | undefined): Promise<void> {
    const query = this.#tables.rows.query().select(['checksum', 'id', 'document_id']).withRowId()
    if (condition !== undefined) query.where(condition)
    const unknown: number[] = []
    for await (const batch of query) {
      const [places, keys] = [placesOf(batch), keysOf(batch)]
      const [id, documentId] = [binaryColumn(batch, 'id'), binaryColumn(batch, 'document_id')]
      for (let at = 0; at < batch.numRows; at++) {
        const place = places(at)
        this.#highest = Math.max(this.#highest, Math.floor(place / FILE))
        const row = this.#rowOf.get(keys(at))
        if (row === undefined) unknown.push(place)
        else {
          this.#settle(row, place)
          if (!this.#names.has(row)) this.#names.set(row, id(at), documentId(at))
        }
      }
    }
    for (const some of slices(unknown, READ)) {
      const columns = ['memory', 'checksum', 'id', 'document_id']
      const read = this.#tables.rows.takeRowIds(some.map(BigInt)).select(columns).withRowId()
      for await (const batch of read) {
        const first = index.rows
        const [places, keys] = [placesOf(batch), keysOf(batch)]
        const [id, documentId] = [binaryColumn(batch, 'id'), binaryColumn(batch, 'document_id')]
        const numbers = Array.from({ length: batch.numRows }, (_, at) => at)
        index.add(numbers.map((at) => encodeRow(tokensOf(batch, at, this.#width), this.#width, index.centre)))
        for (const at of numbers) {
          this.#rowOf.set(keys(at), first + at)
          this.#places[first + at] = GONE
          this.#settle(first + at, places(at))
          this.#names.set(first + at, id(at), documentId(at))
        }
      }
    }
  }

  #settle(row: number, place: number): void {
    if (this.#places[row] === GONE) this.#live++
    this.#places[row] = place
  }

  async #passing(condition: string): Promise<Set<number>> {
    const passing = new Set<number>()
    for await (const batch of this.#tables.rows.query().where(condition).select([]).withRowId()) {
      const places = placesOf(batch)
      for (let at = 0; at < batch.numRows; at++) passing.add(places(at))
    }
    return passing
  }

  /** Scores the rows that were found by their memory itself; those that are gone are left out. */
  async #score(found: readonly Estimate[], question: Float32Array): Promise<Candidate[]> {
    if (found.length === 0) return []
    // in the order in which they lie, which is read faster
    const rows = found.map(({ row }) => ({ row, place: this.#places[row] ?? GONE })).sort((a, b) => a.place - b.place)
    const places = rows.map(({ place }) => place)
    const memories = this.#memories.read(places) ?? (await this.#readByLance(places))
    const there = rows.flatMap(({ row }, index) => {
      const bytes = memories[index]
      return bytes === undefined ? [] : [{ row, bytes }]
    })
    const scores = scoreMemories(
      question,
      this.#width,
      there.map(({ bytes }) => bytes),
    )
    return there.map(({ row }, index) => ({ ...this.#names.of(row), score: scores[index] ?? 0 })).sort(byScore)
  }

  /** Memories as they are encoded; undefined where a row is gone. */
  async #readByLance(places: readonly number[]): Promise<(Uint8Array | undefined)[]> {
    const memories = new Map<number, Uint8Array>()
    for await (const batch of this.#tables.rows.takeRowIds(places.map(BigInt)).select(['memory']).withRowId()) {
      const [place, memory] = [placesOf(batch), binaryColumn(batch, 'memory')]
      for (let at = 0; at < batch.numRows; at++) memories.set(place(at), memory(at))
    }
    return places.map((place) => memories.get(place))
  }
}

/** How many rows the file holds. */
export function lateRows(folder: string, width: number): number {
  const file = openLateFile(lateFile(folder), width)
  file?.close()
  return file?.counts.length ?? 0
}

/** Whether the file should be made anew. `indexed`: rows that it holds. `fresh`: rows that it is known to lack. */
export function needsLateFile(rows: number, indexed: number, fresh: number): boolean {
  const lacking = Math.max(fresh, rows - indexed)
  return lacking > Math.max(LEAST, NEW_SHARE * indexed) || indexed > 2 * rows + LEAST
}

export function lateStats(rows: number, indexed: number, problem: string | undefined): StoreStats['index'] {
  return {
    kind: indexed === 0 ? 'exact' : 'approximate',
    unindexed: indexed === 0 ? 0 : Math.max(0, rows - indexed),
    ...(problem === undefined ? {} : { problem }),
  }
}

/** Makes the file from the table as it is now; safe beside readers and writers. */
export async function buildLateFile(folder: string, tables: Tables, width: number): Promise<void> {
  const { table, release } = await pinned(folder, tables, 'rows')
  try {
    await writeLateFile(lateFile(folder), width, memoriesOf(table, width))
  } finally {
    await release()
  }
}

async function* memoriesOf(table: Table, width: number): AsyncGenerator<KeyedMemory> {
  for await (const batch of table.query().select(['memory', 'checksum'])) {
    const keys = keysOf(batch)
    for (let at = 0; at < batch.numRows; at++) yield { key: keys(at), tokens: tokensOf(batch, at, width) }
  }
}

/** Memory tokens [n, width]; of a row that cannot be read, one of zeros: it is there, and `verify` names it. */
function tokensOf(batch: RecordBatch, at: number, width: number): Float32Array {
  let memory: StoredMemory
  try {
    memory = memoryAt(batch, at)
  } catch {
    return new Float32Array(width)
  }
  return memory.width === width && memory.n > 0 ? dequantiseMemory(memory).tokens : new Float32Array(width)
}

/** Of each row of a batch 52 bits of its checksum, which a number holds exactly. */
function keysOf(batch: RecordBatch): (at: number) => number {
  const checksum = textColumn(batch, 'checksum')
  return (at) => Number.parseInt(checksum(at).slice(0, 13), 16)
}

function placesOf(batch: RecordBatch): (at: number) => number {
  const places = batch.getChild('_rowid')
  return (at) => Number(places?.get(at))
}

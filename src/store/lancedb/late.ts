import { stat } from 'node:fs/promises'
import type { Table } from '@lancedb/lancedb'
import type { RecordBatch } from 'apache-arrow'
import { decodeMemory } from '../codec.ts'
import { type KeyedMemory, writeLateFile } from '../late/build.ts'
import { centreOf, encodeRow } from '../late/codes.ts'
import { identityOf, openLateFile } from '../late/late-file.ts'
import { type Estimate, LateIndex } from '../late/late-index.ts'
import { scoreMemories } from '../late/scorer.ts'
import { dequantiseMemory } from '../quantise.ts'
import { slices } from '../slices.ts'
import type { MemoryCandidate, StoredMemory, StoreStats } from '../store.ts'
import { lateFile } from './folder.ts'
import { type MemoryFiles, memoryFilesOf, readMemories } from './memories.ts'
import { binaryColumn, memoryAt, textColumn } from './rows.ts'
import { byScore } from './search.ts'
import { pinned, type Tables } from './tables.ts'

/*
 * The late-interaction index beside LanceDB's table. The table alone says which rows there are: a row of the index is told by its checksum, and
 * used where the table has it; rows that the file lacks are read and encoded when the store is searched. LanceDB numbers rows by file · 2^32 + position, so
 * new ones have greater numbers, and those that were joined into a new file are found there by their checksums.
 */

const FILE = 2 ** 32
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
  #files: MemoryFiles | undefined

  constructor(folder: string, tables: Tables, width: number) {
    this.#folder = folder
    this.#tables = tables
    this.#width = width
  }

  /** Rows that the file lacks, as far as is known; 0 before the first search. */
  get fresh(): number {
    return this.#index?.fresh ?? 0
  }

  async find(query: LateQuery): Promise<MemoryCandidate[]> {
    for (let attempt = 1; ; attempt++) {
      const index = await this.#refreshed()
      const passing = query.condition === undefined ? undefined : await this.#passing(query.condition)
      const { tokens, limit, exhaustive } = query
      const passes = (row: number) => {
        const place = this.#places[row] ?? GONE
        return place !== GONE && (passing === undefined || passing.has(place))
      }
      const found = index.find(tokens, { limit, passes, exhaustive })
      const candidates = await this.#take(found, tokens)
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
    this.#files = await memoryFilesOf(this.#folder, version, this.#files)
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
    const query = this.#tables.rows.query().select(['checksum']).withRowId()
    if (condition !== undefined) query.where(condition)
    const unknown: number[] = []
    for await (const batch of query) {
      const [places, keys] = [placesOf(batch), keysOf(batch)]
      for (let at = 0; at < batch.numRows; at++) {
        const place = places(at)
        this.#highest = Math.max(this.#highest, Math.floor(place / FILE))
        const row = this.#rowOf.get(keys(at))
        if (row === undefined) unknown.push(place)
        else this.#settle(row, place)
      }
    }
    for (const some of slices(unknown, READ)) {
      const read = this.#tables.rows.takeRowIds(some.map(BigInt)).select(['memory', 'checksum']).withRowId()
      for await (const batch of read) {
        const first = index.rows
        const [places, keys] = [placesOf(batch), keysOf(batch)]
        const numbers = Array.from({ length: batch.numRows }, (_, at) => at)
        index.add(numbers.map((at) => encodeRow(tokensOf(batch, at, this.#width), this.#width, index.centre)))
        for (const at of numbers) {
          this.#rowOf.set(keys(at), first + at)
          this.#places[first + at] = GONE
          this.#settle(first + at, places(at))
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

  /** Reads the rows that were found, and scores them by their memory itself. */
  async #take(found: readonly Estimate[], question: Float32Array): Promise<MemoryCandidate[]> {
    if (found.length === 0) return []
    // in the order in which they lie, which is read faster
    const places = found.map(({ row }) => this.#places[row] ?? 0).sort((one, other) => one - other)
    const [names, scored] = await Promise.all([this.#names(places), this.#scored(places, question)])
    const candidates = names.flatMap(({ place, id, documentId }): MemoryCandidate[] => {
      const memory = scored.get(place)
      if (memory === undefined) return []
      const { bytes, score } = memory
      return [
        {
          id,
          documentId,
          score,
          // decoded where it is wanted: of many candidates few become sources
          get memory() {
            return decodeMemory(bytes)
          },
        },
      ]
    })
    return candidates.sort(byScore)
  }

  /** Those of these rows that are still there. */
  async #names(places: readonly number[]): Promise<{ place: number; id: string; documentId: string }[]> {
    const names: { place: number; id: string; documentId: string }[] = []
    const read = this.#tables.rows.takeRowIds(places.map(BigInt)).select(['id', 'document_id']).withRowId()
    for await (const batch of read) {
      const [place, id, documentId] = [placesOf(batch), textColumn(batch, 'id'), textColumn(batch, 'document_id')]
      for (let at = 0; at < batch.numRows; at++)
        names.push({ place: place(at), id: id(at), documentId: documentId(at) })
    }
    return names
  }

  /** Memories as they are encoded, and their scores, by place. */
  async #scored(
    places: readonly number[],
    question: Float32Array,
  ): Promise<Map<number, { readonly bytes: Uint8Array; readonly score: number }>> {
    const memories = new Map<number, Uint8Array>()
    const read = this.#files === undefined ? undefined : readMemories(this.#files, places)
    if (read !== undefined) for (const [index, bytes] of read.entries()) memories.set(places[index] ?? GONE, bytes)
    else {
      for await (const batch of this.#tables.rows.takeRowIds(places.map(BigInt)).select(['memory']).withRowId()) {
        const [place, memory] = [placesOf(batch), binaryColumn(batch, 'memory')]
        for (let at = 0; at < batch.numRows; at++) memories.set(place(at), memory(at))
      }
    }
    const scores = scoreMemories(question, this.#width, [...memories.values()])
    return new Map(Array.from(memories, ([place, bytes], index) => [place, { bytes, score: scores[index] ?? 0 }]))
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

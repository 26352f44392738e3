import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { RecordBatch } from 'apache-arrow'
import { ClaraError } from '../../errors.ts'
import { Findings } from '../damage.ts'
import { checkFilter } from '../filter.ts'
import { SCHEMA_VERSION } from '../schema.ts'
import { slices } from '../slices.ts'
import type {
  AddOutcome,
  Candidate,
  DocumentRecord,
  RowFilter,
  Store,
  StoreDescription,
  StoredMemory,
  StoreRow,
  StoreStats,
  TextSearchOptions,
  VectorSearchOptions,
  Verification,
} from '../store.ts'
import { checkFingerprint, checkLimit, checkRecords, checkRows, checkVector } from '../validation.ts'
import { unitVector } from '../vector.ts'
import { wordsOf } from '../words.ts'
import { conditionOf, keyOf, oneOf } from './filter.ts'
import { Flusher } from './flush.ts'
import { checkWritable, explained, indexLock, isMissing, writerLock } from './folder.ts'
import { lock } from './lock.ts'
import { buildIndex, indexState, indexStats, isUntidy, needsIndex, tidy } from './maintenance.ts'
import {
  decodeDocument,
  decodeRow,
  encodeDocuments,
  encodeRows,
  memoryAt,
  numberAt,
  rowColumns,
  storeRow,
  textAt,
} from './rows.ts'
import { pinned, type Tables } from './tables.ts'
import { removeDamage, verifyTables } from './verify.ts'

/** Rows that are asked for by id at a time. */
const KEYS = 1_000
/** Partitions of the vector index that a search looks into, and how many candidates it compares exactly: multiples of what is asked for, and a least. */
const PROBES = 32
const REFINE = 4
const LEAST_REFINED = 256
/** When no more rows than this pass a filter, an index has little to find among them: they are compared one by one. */
const EXACT_IF_PASSING = 2_000

export interface LanceStorePlace {
  readonly folder: string
  readonly tables: Tables
  /** Milliseconds. */
  readonly lockTimeout: number
  readonly exactUpTo: number
}

/** A store whose tables are open. */
export class LanceStore implements Store {
  readonly description: StoreDescription
  readonly #folder: string
  readonly #tables: Tables
  readonly #lockTimeout: number
  readonly #exactUpTo: number
  readonly #flusher: Flusher
  #closed = false
  /** The writes of this process, one after the other. */
  #writing: Promise<unknown> = Promise.resolve()
  #background: Promise<void> | undefined
  #problem: string | undefined
  #writes = 0
  /** Rows when the vector index was made; 0 when this process did not make it. */
  #trained = 0

  constructor(description: StoreDescription, { folder, tables, lockTimeout, exactUpTo }: LanceStorePlace) {
    this.description = description
    this.#folder = folder
    this.#tables = tables
    this.#flusher = new Flusher(folder)
    this.#lockTimeout = lockTimeout
    this.#exactUpTo = exactUpTo
  }

  async add(rows: readonly StoreRow[], options: { readonly fingerprint: string }): Promise<AddOutcome> {
    this.#checkOpen()
    checkFingerprint('A row to add', options.fingerprint, this.description)
    checkRows(rows, this.description)
    if (rows.length === 0) return { added: 0, replaced: 0, unchanged: 0 }
    const { arrow, rowsSchema, rows: table } = this.#tables
    const distinct = new Map(rows.map((row) => [row.id, row]))
    return this.#write(async () => {
      const present = await this.#hashes([...distinct.keys()])
      const changed = [...distinct.values()].filter(({ id, contentHash }) => present.get(id) !== contentHash)
      const replaced = changed.filter(({ id }) => present.has(id)).length
      const outcome = { added: changed.length - replaced, replaced, unchanged: rows.length - changed.length }
      if (changed.length === 0) return outcome
      const data = encodeRows(arrow, rowsSchema, changed)
      if (replaced === 0) await table.add(data)
      else await table.mergeInsert('key').whenMatchedUpdateAll().whenNotMatchedInsertAll().execute(data)
      return outcome
    })
  }

  async get(ids: readonly string[]): Promise<(StoreRow | undefined)[]> {
    return this.#byId(ids, rowColumns, (batch, index) => storeRow(decodeRow(batch, index).row))
  }

  async memories(ids: readonly string[]): Promise<(StoredMemory | undefined)[]> {
    return this.#byId(ids, ['memory'], memoryAt)
  }

  async contentHashes(ids: readonly string[]): Promise<(string | undefined)[]> {
    this.#checkOpen()
    const hashes = await this.#read(() => this.#hashes(ids))
    return ids.map((id) => hashes.get(id))
  }

  async putDocuments(records: readonly DocumentRecord[]): Promise<void> {
    this.#checkOpen()
    checkRecords(records)
    if (records.length === 0) return
    const { arrow, documentsSchema, documents, rows } = this.#tables
    const distinct = [...new Map(records.map((record) => [record.documentId, record])).values()]
    await this.#write(async () => {
      for (const some of slices(distinct, KEYS)) {
        const surplus = some.map(
          ({ documentId, chunks }) => `(document_key = '${keyOf(documentId)}' AND chunk >= ${chunks})`,
        )
        // joined in small groups: the parser's depth grows with the number of alternatives
        for (const group of slices(surplus, 100)) {
          const condition = group.join(' OR ')
          if ((await rows.countRows(condition)) > 0) await rows.delete(condition)
        }
        await documents
          .mergeInsert('key')
          .whenMatchedUpdateAll()
          .whenNotMatchedInsertAll()
          .execute(encodeDocuments(arrow, documentsSchema, some))
      }
    })
  }

  async *documents(ids?: readonly string[]): AsyncGenerator<DocumentRecord> {
    this.#checkOpen()
    const groups = ids === undefined ? [undefined] : slices([...new Set(ids)], KEYS)
    const { table, release } = await this.#read(() => pinned(this.#folder, this.#tables, 'documents'))
    try {
      for (const group of groups) {
        const query = table.query().select(['document_id', 'content_hash', 'chunks', 'details'])
        if (group !== undefined) query.where(oneOf('key', group.map(keyOf)))
        for await (const batch of this.#batches(query)) {
          for (let index = 0; index < batch.numRows; index++) yield decodeDocument(batch, index)
        }
      }
    } finally {
      await release()
    }
  }

  async remove(documentIds: readonly string[]): Promise<number> {
    this.#checkOpen()
    const keys = [...new Set(documentIds)].map(keyOf)
    if (keys.length === 0) return 0
    return this.#write(async () => {
      let removed = 0
      for (const some of slices(keys, KEYS)) {
        // the record first: when this is cut off, what is left is not taken for complete
        const record = oneOf('key', some)
        if ((await this.#tables.documents.countRows(record)) > 0) await this.#tables.documents.delete(record)
        const condition = oneOf('document_key', some)
        const count = await this.#tables.rows.countRows(condition)
        if (count > 0) await this.#tables.rows.delete(condition)
        removed += count
      }
      return removed
    })
  }

  async count(filter?: RowFilter): Promise<number> {
    this.#checkOpen()
    checkFilter(filter)
    return this.#read(() => this.#tables.rows.countRows(conditionOf(filter)))
  }

  async search(vector: Float32Array, options: VectorSearchOptions): Promise<Candidate[]> {
    this.#checkOpen()
    checkFingerprint('The query', options.fingerprint, this.description)
    checkVector('The query vector', vector, this.description)
    checkLimit(options.limit)
    checkFilter(options.filter)
    const { limit } = options
    const condition = conditionOf(options.filter)
    return this.#read(async () => {
      const query = this.#tables.rows
        .query()
        .nearestTo(unitVector(vector))
        .column('vector')
        .distanceType('cosine')
        .select(['id', 'document_id', '_distance'])
        .limit(limit)
        .refineFactor(Math.max(REFINE, Math.ceil(LEAST_REFINED / limit)))
      if (condition !== undefined) query.where(condition)
      const share = options.exact ? 0 : await this.#passingShare(condition)
      if (share === 0) query.bypassVectorIndex()
      // The fewer rows pass, the farther apart they lie.
      else query.nprobes(Math.ceil(Math.max(PROBES, limit / 64) * Math.min(8, share ** -0.5)))
      const candidates = await this.#candidates(query, (batch, index) => 1 - numberAt(batch, '_distance', index))
      return candidates.map(({ score, ...rest }) => ({ ...rest, score: Math.max(-1, Math.min(1, score)) }))
    })
  }

  async searchText(query: string, options: TextSearchOptions): Promise<Candidate[]> {
    this.#checkOpen()
    checkLimit(options.limit)
    checkFilter(options.filter)
    const words = [...new Set(wordsOf(query))].join(' ')
    if (words === '') return []
    const condition = conditionOf(options.filter)
    return this.#read(async () => {
      const search = this.#tables.rows
        .query()
        .fullTextSearch(new this.#tables.lance.MatchQuery(words, 'words'))
        .select(['id', 'document_id', '_score'])
        .limit(options.limit)
      if (condition !== undefined) search.where(condition)
      return this.#candidates(search, (batch, index) => numberAt(batch, '_score', index))
    })
  }

  async *iterate(filter?: RowFilter): AsyncGenerator<StoreRow> {
    this.#checkOpen()
    checkFilter(filter)
    const { table, release } = await this.#read(() => pinned(this.#folder, this.#tables, 'rows'))
    try {
      const query = table.query().select([...rowColumns])
      const condition = conditionOf(filter)
      if (condition !== undefined) query.where(condition)
      for await (const batch of this.#batches(query)) {
        for (let index = 0; index < batch.numRows; index++) {
          this.#checkOpen()
          yield storeRow(decodeRow(batch, index).row)
        }
      }
    } finally {
      await release()
    }
  }

  async stats(): Promise<StoreStats> {
    this.#checkOpen()
    return this.#read(async () => ({
      driver: 'lancedb',
      schemaVersion: SCHEMA_VERSION,
      documents: await this.#tables.documents.countRows(),
      chunks: await this.#tables.rows.countRows(),
      bytes: await bytesIn(this.#folder),
      index: await indexStats(this.#tables.rows, this.#problem),
    }))
  }

  async compact(): Promise<void> {
    this.#checkOpen()
    await this.#background
    await this.#write(() => tidy(this.#folder, this.#tables))
    await this.#refreshIndex()
    if (this.#problem !== undefined) throw new ClaraError('The index could not be built.', { received: this.#problem })
  }

  async verify({ repair = false }: { readonly repair?: boolean } = {}): Promise<Verification> {
    this.#checkOpen()
    const findings = new Findings()
    if (!repair) await this.#read(() => verifyTables(this.#folder, this.#tables, findings))
    else {
      await this.#write(async () => {
        const lost = await verifyTables(this.#folder, this.#tables, findings)
        await removeDamage(this.#tables, lost, findings.documents.map(keyOf))
      })
    }
    return findings.verification
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await Promise.allSettled([this.#writing, this.#background])
    this.#tables.rows.close()
    this.#tables.documents.close()
    this.#tables.connection.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  /** Which share of the rows meets a condition; 0 when these are so few that comparing with each is best. */
  async #passingShare(condition: string | undefined): Promise<number> {
    if (condition === undefined) return 1
    const passing = await this.#tables.rows.countRows(condition)
    return passing <= EXACT_IF_PASSING ? 0 : passing / (await this.#tables.rows.countRows())
  }

  async #hashes(ids: readonly string[]): Promise<Map<string, string>> {
    const hashes = new Map<string, string>()
    for (const some of slices([...new Set(ids)], KEYS)) {
      const condition = oneOf('key', some.map(keyOf))
      const query = this.#tables.rows.query().where(condition).select(['id', 'content_hash'])
      for await (const batch of query) {
        for (let index = 0; index < batch.numRows; index++) {
          hashes.set(textAt(batch, 'id', index), textAt(batch, 'content_hash', index))
        }
      }
    }
    return hashes
  }

  async #byId<Value>(
    ids: readonly string[],
    columns: readonly string[],
    decode: (batch: RecordBatch, index: number) => Value,
  ): Promise<(Value | undefined)[]> {
    this.#checkOpen()
    return this.#read(async () => {
      // Decoded anew for every place: one id may be asked for twice, and callers own what they get.
      const places = new Map<string, number[]>()
      for (const [place, id] of ids.entries()) places.set(id, [...(places.get(id) ?? []), place])
      const values = new Array<Value | undefined>(ids.length)
      for (const some of slices([...places.keys()], KEYS)) {
        const query = this.#tables.rows.query().where(oneOf('key', some.map(keyOf)))
        query.select([...new Set(['id', ...columns])])
        for await (const batch of query) {
          for (let index = 0; index < batch.numRows; index++) {
            for (const place of places.get(textAt(batch, 'id', index)) ?? []) values[place] = decode(batch, index)
          }
        }
      }
      return values
    })
  }

  async #candidates(
    query: AsyncIterable<RecordBatch>,
    score: (batch: RecordBatch, index: number) => number,
  ): Promise<Candidate[]> {
    const candidates: Candidate[] = []
    for await (const batch of query) {
      for (let index = 0; index < batch.numRows; index++) {
        const id = textAt(batch, 'id', index)
        candidates.push({ id, documentId: textAt(batch, 'document_id', index), score: score(batch, index) })
      }
    }
    return candidates.sort((a, b) => b.score - a.score || (a.id < b.id ? -1 : 1))
  }

  async *#batches(query: AsyncIterable<RecordBatch>): AsyncGenerator<RecordBatch> {
    try {
      yield* query
    } catch (error) {
      throw explained(this.#folder, error)
    }
  }

  /** A short read. When the files under it were joined and deleted meanwhile, it reads again, from the new ones. */
  async #read<Value>(read: () => Promise<Value>): Promise<Value> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await read()
      } catch (error) {
        if (attempt === 3 || !isMissing(error)) throw explained(this.#folder, error)
        await Promise.all([this.#tables.rows, this.#tables.documents].map((table) => table.checkoutLatest()))
      }
    }
  }

  /** Runs a write alone among all processes, then sees whether there is something to tidy in the background. */
  #write<Value>(write: () => Promise<Value>): Promise<Value> {
    const run = this.#writing.then(async () => {
      try {
        await checkWritable(this.#folder)
        const release = await lock(writerLock(this.#folder), this.#lockTimeout)
        try {
          const value = await write()
          await this.#flusher.flush()
          return value
        } finally {
          await release()
        }
      } catch (error) {
        throw explained(this.#folder, error)
      }
    })
    this.#writing = run.catch(() => undefined)
    return run.then((value) => {
      this.#maintain()
      return value
    })
  }

  /** In the background: what it does can wait, and when it fails, `stats` says so and a later write tries again. */
  #maintain(): void {
    if (this.#closed || this.#background !== undefined || ++this.#writes % 16 !== 0) return
    this.#background = (async () => {
      try {
        if (await isUntidy(this.#tables.rows)) await this.#write(() => tidy(this.#folder, this.#tables))
        await this.#refreshIndex()
      } catch (error) {
        this.#problem = error instanceof Error ? error.message : String(error)
      } finally {
        this.#background = undefined
      }
    })()
  }

  async #refreshIndex(): Promise<void> {
    const { rows, indexed } = await indexState(this.#tables.rows)
    if (!needsIndex(rows, indexed, this.#trained || (indexed ?? 0), this.#exactUpTo)) return
    const release = await lock(indexLock(this.#folder), this.#lockTimeout)
    try {
      await buildIndex(this.#tables, rows, this.description.vectorWidth)
      this.#trained = rows
      this.#problem = undefined
    } finally {
      await release()
    }
  }

  #checkOpen(): void {
    if (this.#closed) throw new ClaraError('The store is closed.', { hint: 'Open it again.' })
  }
}

async function bytesIn(folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  let bytes = 0
  for (const entry of entries) {
    // a file may go while it is looked at
    if (entry.isFile())
      bytes += await stat(join(entry.parentPath, entry.name)).then(
        ({ size }) => size,
        () => 0,
      )
  }
  return bytes
}

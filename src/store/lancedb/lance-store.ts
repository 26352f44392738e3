import type { RecordBatch } from 'apache-arrow'
import { ClaraError } from '../../errors.ts'
import { Findings } from '../damage.ts'
import { checkFilter } from '../filter.ts'
import { checkAdd, checkMemorySearch, checkSearch, checkTextSearch } from '../requests.ts'
import { SCHEMA_VERSION } from '../schema.ts'
import { slices } from '../slices.ts'
import type {
  AddOutcome,
  Candidate,
  DocumentRecord,
  Float32Memory,
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
import { checkRecords } from '../validation.ts'
import { conditionOf, keyOf, oneOf } from './filter.ts'
import { Flusher } from './flush.ts'
import { checkWritable, explained, indexLock, isMissing, writerLock } from './folder.ts'
import { buildLateFile, LateSearch, lateRows, lateStats, needsLateFile } from './late.ts'
import { lock } from './lock.ts'
import { buildIndex, indexState, indexStats, isUntidy, needsIndex, tidy } from './maintenance.ts'
import { bytesIn, hashesOf, KEYS, readById } from './reads.ts'
import { decodeDocument, decodeRow, encodeDocuments, encodeRows, memoryAt, rowColumns, storeRow } from './rows.ts'
import { searchVectors, searchWords } from './search.ts'
import { pinned, type Tables } from './tables.ts'
import { removeDamage, verifyTables } from './verify.ts'

export interface LanceStorePlace {
  readonly folder: string
  readonly tables: Tables
  /** Milliseconds. */
  readonly lockTimeout: number
  readonly exactUpTo: number
  readonly background: boolean
}

/** A store whose tables are open. */
export class LanceStore implements Store {
  readonly description: StoreDescription
  readonly #folder: string
  readonly #tables: Tables
  readonly #lockTimeout: number
  readonly #exactUpTo: number
  readonly #maintains: boolean
  readonly #flusher: Flusher
  readonly #late: LateSearch
  #closed = false
  /** The writes of this process, one after the other. */
  #writing: Promise<unknown> = Promise.resolve()
  #background: Promise<void> | undefined
  #problem: string | undefined
  #writes = 0
  /** Rows when the vector index was made; 0 when this process did not make it. */
  #trained = 0

  constructor(description: StoreDescription, { folder, tables, lockTimeout, exactUpTo, background }: LanceStorePlace) {
    this.description = description
    this.#folder = folder
    this.#tables = tables
    this.#flusher = new Flusher(folder)
    this.#late = new LateSearch(folder, tables, description.memoryWidth)
    this.#lockTimeout = lockTimeout
    this.#exactUpTo = exactUpTo
    this.#maintains = background
  }

  async add(rows: readonly StoreRow[], options: { readonly fingerprint: string }): Promise<AddOutcome> {
    this.#checkOpen()
    checkAdd(rows, options, this.description)
    if (rows.length === 0) return { added: 0, replaced: 0, unchanged: 0 }
    const { arrow, rowsSchema, rows: table } = this.#tables
    const distinct = new Map(rows.map((row) => [row.id, row]))
    return this.#write(async () => {
      const present = await hashesOf(this.#tables, [...distinct.keys()])
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
    return this.#byId(ids, rowColumns(this.#tables.rowsSchema), (batch, index) => storeRow(decodeRow(batch, index).row))
  }

  async memories(ids: readonly string[]): Promise<(StoredMemory | undefined)[]> {
    return this.#byId(ids, ['memory'], memoryAt)
  }

  async contentHashes(ids: readonly string[]): Promise<(string | undefined)[]> {
    this.#checkOpen()
    const hashes = await this.#read(() => hashesOf(this.#tables, ids))
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
    checkSearch(vector, options, this.description)
    return this.#read(() => searchVectors(this.#tables, vector, options))
  }

  async searchMemory(query: Float32Memory, options: VectorSearchOptions): Promise<Candidate[]> {
    this.#checkOpen()
    checkMemorySearch(query, options, this.description)
    const { limit, filter, exact = false } = options
    const condition = conditionOf(filter)
    return this.#read(() => this.#late.find({ tokens: query.tokens, limit, condition, exhaustive: exact }))
  }

  async searchText(query: string, options: TextSearchOptions): Promise<Candidate[]> {
    this.#checkOpen()
    checkTextSearch(options)
    return this.#read(() => searchWords(this.#tables, query, options))
  }

  async *iterate(filter?: RowFilter): AsyncGenerator<StoreRow> {
    this.#checkOpen()
    checkFilter(filter)
    const { table, release } = await this.#read(() => pinned(this.#folder, this.#tables, 'rows'))
    try {
      const query = table.query().select(rowColumns(this.#tables.rowsSchema))
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
      index: await this.#indexStats(),
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
    this.#late.close()
    this.#tables.rows.close()
    this.#tables.documents.close()
    this.#tables.connection.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  #byId<Value>(
    ids: readonly string[],
    columns: readonly string[],
    decode: (batch: RecordBatch, index: number) => Value,
  ): Promise<(Value | undefined)[]> {
    this.#checkOpen()
    return this.#read(() => readById(this.#tables, ids, columns, decode))
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
    if (!this.#maintains || this.#closed || this.#background !== undefined || ++this.#writes % 16 !== 0) return
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
    const { vectorWidth, memoryWidth } = this.description
    if (vectorWidth === 0) {
      const rows = await this.#tables.rows.countRows()
      if (!needsLateFile(rows, lateRows(this.#folder, memoryWidth), this.#late.fresh)) return
      await this.#underIndexLock(() => buildLateFile(this.#folder, this.#tables, memoryWidth))
      return
    }
    const { rows, indexed } = await indexState(this.#tables.rows)
    if (!needsIndex(rows, indexed, this.#trained || (indexed ?? 0), this.#exactUpTo)) return
    await this.#underIndexLock(() => buildIndex(this.#tables, rows, vectorWidth))
    this.#trained = rows
  }

  async #underIndexLock(build: () => Promise<void>): Promise<void> {
    const release = await lock(indexLock(this.#folder), this.#lockTimeout)
    try {
      await build()
      this.#problem = undefined
    } finally {
      await release()
    }
  }

  async #indexStats(): Promise<StoreStats['index']> {
    if (this.description.vectorWidth > 0) return indexStats(this.#tables.rows, this.#problem)
    const indexed = lateRows(this.#folder, this.description.memoryWidth)
    const rows = await this.#tables.rows.countRows()
    return lateStats(rows, indexed, this.#problem)
  }

  #checkOpen(): void {
    if (this.#closed) throw new ClaraError('The store is closed.', { hint: 'Open it again.' })
  }
}

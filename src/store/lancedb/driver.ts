import { readdir, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import type { RecordBatch } from 'apache-arrow'
import { ClaraError } from '../../errors.ts'
import { checkFilter } from '../filter.ts'
import { checkSchemaVersion, type Migration, migrate, SCHEMA_VERSION } from '../schema.ts'
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
import {
  checkDescription,
  checkFingerprint,
  checkLimit,
  checkRecords,
  checkRows,
  checkSameStore,
  checkVector,
} from '../validation.ts'
import { unitVector } from '../vector.ts'
import { wordsOf } from '../words.ts'
import { conditionOf, keyOf, oneOf } from './filter.ts'
import {
  checkWritable,
  explained,
  indexLock,
  prepareFolder,
  readStoreFile,
  writerLock,
  writeStoreFile,
} from './folder.ts'
import { lock } from './lock.ts'
import { buildIndex, EXACT_UP_TO, indexState, indexStats, isUntidy, KEPT_FOR, needsIndex, tidy } from './maintenance.ts'
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
import { createTables, openTables, pinned, type Tables } from './tables.ts'
import { verifyTables } from './verify.ts'

export interface LanceStoreOptions {
  /** What the store is for. Needed to make one; an existing one is checked against it, and opened without. */
  readonly description?: StoreDescription
  /** How long to wait for another writer. Milliseconds. Default: 30,000. */
  readonly lockTimeout?: number
}

/** Steps from older schema versions; there is none yet. */
const migrations: readonly Migration<Tables>[] = []
/** Rows that are asked for by id at a time. */
const KEYS = 1_000
/** Partitions of the vector index that a search looks into, and how many candidates it compares exactly, in multiples of what is asked for. */
const PROBES = 32
const REFINE = 4

/**
 * Opens a store in a folder, by LanceDB, and makes it when there is none yet and a description is given.
 *
 * @throws ClaraError when the folder holds another model's store, one of a newer schema, or something else; when there is none and no description.
 */
export async function openLanceStore(path: string, options: LanceStoreOptions = {}): Promise<Store> {
  const { description, lockTimeout = 30_000 } = options
  if (description !== undefined) checkDescription(description)
  const folder = resolve(path)
  const name = `The store "${path}"`
  try {
    const found = (await readStoreFile(folder)) ?? (await createStore(path, folder, description, lockTimeout))
    checkSchemaVersion(name, found.schemaVersion)
    if (description !== undefined) checkSameStore(name, found.description, description)
    const tables = await openTables(folder, found.description.vectorWidth)
    if (found.schemaVersion !== SCHEMA_VERSION) await upgrade(name, folder, tables, lockTimeout)
    return new LanceStore(folder, found.description, tables, lockTimeout)
  } catch (error) {
    throw explained(path, error)
  }
}

async function createStore(
  path: string,
  folder: string,
  description: StoreDescription | undefined,
  lockTimeout: number,
) {
  if (description === undefined) {
    throw new ClaraError(`There is no store in "${path}".`, { hint: 'Add documents first, or name another folder.' })
  }
  await prepareFolder(folder)
  const release = await lock(writerLock(folder), lockTimeout)
  try {
    // Another process may have made it while this one waited.
    const found = await readStoreFile(folder)
    if (found !== undefined) return found
    await createTables(folder, description.vectorWidth)
    const { fingerprint, memoryWidth, vectorWidth, details } = description
    const kept = { fingerprint, memoryWidth, vectorWidth, ...(details === undefined ? {} : { details }) }
    const created = { schemaVersion: SCHEMA_VERSION, description: structuredClone(kept) }
    await writeStoreFile(folder, created)
    return created
  } finally {
    await release()
  }
}

async function upgrade(name: string, folder: string, tables: Tables, lockTimeout: number): Promise<void> {
  const release = await lock(writerLock(folder), lockTimeout)
  try {
    const found = await readStoreFile(folder)
    if (found === undefined || typeof found.schemaVersion !== 'number') return
    await migrate(name, found.schemaVersion, tables, migrations, (schemaVersion) =>
      writeStoreFile(folder, { ...found, schemaVersion }),
    )
  } finally {
    await release()
  }
}

class LanceStore implements Store {
  readonly description: StoreDescription
  readonly #folder: string
  readonly #tables: Tables
  readonly #lockTimeout: number
  #closed = false
  /** The writes of this process, one after the other. */
  #writing: Promise<unknown> = Promise.resolve()
  #background: Promise<void> | undefined
  #problem: string | undefined
  #writes = 0
  /** Rows when the vector index was made; 0 when this process did not make it. */
  #trained = 0

  constructor(folder: string, description: StoreDescription, tables: Tables, lockTimeout: number) {
    this.#folder = folder
    this.description = description
    this.#tables = tables
    this.#lockTimeout = lockTimeout
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
    const columns = ['document_id', 'content_hash', 'chunks', 'details']
    const groups = ids === undefined ? [undefined] : slices([...new Set(ids)], KEYS)
    for (const group of groups) {
      const query = this.#tables.documents.query().select(columns)
      if (group !== undefined) query.where(oneOf('key', group.map(keyOf)))
      for await (const batch of this.#batches(query)) {
        for (let index = 0; index < batch.numRows; index++) yield decodeDocument(batch, index)
      }
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
        .nprobes(Math.max(PROBES, Math.ceil(limit / 64)))
        .refineFactor(REFINE)
      if (condition !== undefined) query.where(condition)
      // A filter that few rows pass leaves an index little to find: these rows are compared one by one.
      const exact =
        options.exact || (condition !== undefined && (await this.#tables.rows.countRows(condition)) <= EXACT_UP_TO)
      if (exact) query.bypassVectorIndex()
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
    const table = await this.#read(() => pinned(this.#tables))
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
      table.close()
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
    await this.#write(() => tidy(this.#tables, KEPT_FOR))
    await this.#refreshIndex()
    if (this.#problem !== undefined) throw new ClaraError('The index could not be built.', { received: this.#problem })
  }

  async verify(): Promise<Verification> {
    this.#checkOpen()
    return this.#read(() => verifyTables(this.#tables))
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

  async #hashes(ids: readonly string[]): Promise<Map<string, string>> {
    const hashes = new Map<string, string>()
    for (const some of slices([...new Set(ids)], KEYS)) {
      const condition = oneOf('key', some.map(keyOf))
      const query = this.#tables.rows.query().where(condition).select(['id', 'content_hash'])
      for await (const batch of this.#batches(query)) {
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
        for await (const batch of this.#batches(query)) {
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

  async #read<Value>(read: () => Promise<Value>): Promise<Value> {
    try {
      return await read()
    } catch (error) {
      throw explained(this.#folder, error)
    }
  }

  /** Runs a write alone among all processes, then sees whether there is something to tidy in the background. */
  #write<Value>(write: () => Promise<Value>): Promise<Value> {
    const run = this.#writing.then(async () => {
      try {
        await checkWritable(this.#folder)
        const release = await lock(writerLock(this.#folder), this.#lockTimeout)
        try {
          return await write()
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
        if (await isUntidy(this.#tables.rows)) await this.#write(() => tidy(this.#tables, KEPT_FOR))
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
    if (!needsIndex(rows, indexed, this.#trained || (indexed ?? 0))) return
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

function slices<Item>(items: readonly Item[], size: number): Item[][] {
  const result: Item[][] = []
  for (let start = 0; start < items.length; start += size) result.push(items.slice(start, start + size))
  return result
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

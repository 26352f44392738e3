import { createHash } from 'node:crypto'
import type { Pool, PoolClient } from 'pg'
import { ClaraError } from '../../errors.ts'
import { decodeMemory, recordChecksum, rowChecksum } from '../codec.ts'
import { Findings } from '../damage.ts'
import { checkFilter } from '../filter.ts'
import { checkAdd, checkSearch, checkTextSearch } from '../requests.ts'
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
import { checkRecords } from '../validation.ts'
import { inTransaction, withRetries } from './connection.ts'
import { conditionOf, keyOf, Parameters } from './filter.ts'
import { lockKeys, lockStore } from './lock.ts'
import {
  decodeRecord,
  decodeRow,
  type RecordResult,
  ROWS_PER_STATEMENT,
  type RowResult,
  rowColumns,
  storeRow,
  upsertRecords,
  upsertRows,
} from './rows.ts'
import { type TableName, WIDEST_INDEXED } from './schema.ts'
import { escaped, unescaped } from './text.ts'
import { searchVectors } from './vectors.ts'
import { searchText } from './words.ts'

/** Rows that a reader of all asks for at a time. */
const FETCHED = 64
const INDEX = 'rows_vector'

/** Where a store lies, and how patient it is with the database. */
export interface PostgresPlace {
  readonly pool: Pool
  readonly schema: string
  readonly tables: TableName
  readonly description: StoreDescription
  readonly connections: number
  readonly lockTimeout: number
  readonly patience: number
  readonly exactUpTo: number
}

/** A store whose tables are there. */
export class PostgresStore implements Store {
  readonly description: StoreDescription
  readonly #place: PostgresPlace
  readonly #rows: string
  readonly #documents: string
  #closed = false
  #writing: Promise<unknown> = Promise.resolve()
  #background: Promise<void> | undefined
  #problem: string | undefined
  #writes = 0

  constructor(place: PostgresPlace) {
    this.description = place.description
    this.#place = place
    this.#rows = place.tables('rows')
    this.#documents = place.tables('documents')
  }

  async add(rows: readonly StoreRow[], options: { readonly fingerprint: string }): Promise<AddOutcome> {
    this.#checkOpen()
    checkAdd(rows, options, this.description)
    if (rows.length === 0) return { added: 0, replaced: 0, unchanged: 0 }
    const distinct = new Map(rows.map((row) => [row.id, row]))
    return this.#write(async (client) => {
      const present = await this.#hashes(client, [...distinct.keys()])
      const changed = [...distinct.values()].filter(({ id, contentHash }) => present.get(id) !== contentHash)
      for (const some of slices(changed, ROWS_PER_STATEMENT)) await client.query(upsertRows(this.#rows, some))
      const replaced = changed.filter(({ id }) => present.has(id)).length
      return { added: changed.length - replaced, replaced, unchanged: rows.length - changed.length }
    })
  }

  async get(ids: readonly string[]): Promise<(StoreRow | undefined)[]> {
    return this.#byId<RowResult, StoreRow>(ids, rowColumns, storeRow)
  }

  async memories(ids: readonly string[]): Promise<(StoredMemory | undefined)[]> {
    return this.#byId<Pick<RowResult, 'id' | 'memory'>, StoredMemory>(ids, 'id, memory', ({ memory }) =>
      decodeMemory(memory),
    )
  }

  async contentHashes(ids: readonly string[]): Promise<(string | undefined)[]> {
    this.#checkOpen()
    const hashes = await this.#read((pool) => this.#hashes(pool, ids))
    return ids.map((id) => hashes.get(id))
  }

  async putDocuments(records: readonly DocumentRecord[]): Promise<void> {
    this.#checkOpen()
    checkRecords(records)
    const distinct = [...new Map(records.map((record) => [record.documentId, record])).values()]
    if (distinct.length === 0) return
    await this.#write(async (client) => {
      for (const some of slices(distinct, ROWS_PER_STATEMENT)) {
        await client.query(
          `DELETE FROM ${this.#rows} USING unnest($1::uuid[], $2::integer[]) AS whole (key, chunks)
           WHERE document_key = whole.key AND chunk >= whole.chunks`,
          [some.map(({ documentId }) => keyOf(documentId)), some.map(({ chunks }) => chunks)],
        )
        await client.query(upsertRecords(this.#documents, some))
      }
    })
  }

  async *documents(ids?: readonly string[]): AsyncGenerator<DocumentRecord> {
    this.#checkOpen()
    const wanted = ids === undefined ? 'true' : 'key = ANY($1::uuid[])'
    const query = `SELECT document_id, content_hash, chunks, details, checksum FROM ${this.#documents} WHERE ${wanted}`
    for await (const result of this.#stream<RecordResult>(query, ids === undefined ? [] : [ids.map(keyOf)])) {
      yield decodeRecord(result)
    }
  }

  async remove(documentIds: readonly string[]): Promise<number> {
    this.#checkOpen()
    const keys = documentIds.map(keyOf)
    if (keys.length === 0) return 0
    return this.#write(async (client) => {
      await client.query(`DELETE FROM ${this.#documents} WHERE key = ANY($1::uuid[])`, [keys])
      const { rowCount } = await client.query(`DELETE FROM ${this.#rows} WHERE document_key = ANY($1::uuid[])`, [keys])
      return rowCount ?? 0
    })
  }

  async count(filter?: RowFilter): Promise<number> {
    this.#checkOpen()
    checkFilter(filter)
    const parameters = new Parameters()
    const condition = conditionOf(filter, parameters)
    return this.#read((pool) => this.#number(pool, `SELECT count(*) FROM ${this.#rows} WHERE ${condition}`, parameters))
  }

  async search(vector: Float32Array, options: VectorSearchOptions): Promise<Candidate[]> {
    this.#checkOpen()
    checkSearch(vector, options, this.description)
    const approximate = !options.exact && (await this.#read((pool) => this.#worthAnIndex(pool, options.filter)))
    return withRetries(this.#place.patience, () =>
      searchVectors(this.#place.pool, this.#rows, vector, options, approximate),
    )
  }

  async searchText(query: string, options: TextSearchOptions): Promise<Candidate[]> {
    this.#checkOpen()
    checkTextSearch(options)
    return this.#read((pool) => searchText(pool, this.#rows, query, options))
  }

  async *iterate(filter?: RowFilter): AsyncGenerator<StoreRow> {
    this.#checkOpen()
    checkFilter(filter)
    const parameters = new Parameters()
    const condition = conditionOf(filter, parameters)
    const query = `SELECT ${rowColumns} FROM ${this.#rows} WHERE ${condition}`
    for await (const result of this.#stream<RowResult>(query, parameters.values)) yield storeRow(result)
  }

  async stats(): Promise<StoreStats> {
    this.#checkOpen()
    return this.#read(async (pool) => {
      const indexed = await this.#hasIndex(pool)
      const sizes = `SELECT pg_total_relation_size($1::regclass) + pg_total_relation_size($2::regclass)`
      return {
        driver: 'postgresql',
        schemaVersion: SCHEMA_VERSION,
        documents: await this.#number(pool, `SELECT count(*) FROM ${this.#documents}`),
        chunks: await this.#number(pool, `SELECT count(*) FROM ${this.#rows}`),
        bytes: await this.#number(pool, sizes, { values: [this.#rows, this.#documents] }),
        index: {
          kind: indexed ? 'approximate' : 'exact',
          unindexed: 0,
          ...(this.#problem === undefined ? {} : { problem: this.#problem }),
        },
      }
    })
  }

  async compact(): Promise<void> {
    this.#checkOpen()
    await this.#background
    await this.#read(async (pool) => {
      await pool.query(`VACUUM (ANALYZE) ${this.#rows}`)
      await pool.query(`VACUUM (ANALYZE) ${this.#documents}`)
    })
    await this.#read(() => this.#refreshIndex())
  }

  async verify({ repair = false }: { readonly repair?: boolean } = {}): Promise<Verification> {
    this.#checkOpen()
    const findings = new Findings()
    const lost: string[] = []
    for await (const result of this.#stream<RowResult>(`SELECT ${rowColumns} FROM ${this.#rows}`, [])) {
      findings.rows++
      const name = { id: unescaped(result.id), documentId: unescaped(result.document_id) }
      findings.isRepeated({ ...name, chunk: result.chunk })
      try {
        const { row, checksum } = decodeRow(result)
        if (rowChecksum(row) === checksum) continue
        findings.report({ ...name, problem: 'its checksum differs' })
      } catch (error) {
        findings.report({ ...name, problem: error instanceof Error ? error.message : String(error) })
      }
      lost.push(name.id)
    }
    const query = `SELECT document_id, content_hash, chunks, details, checksum FROM ${this.#documents}`
    for await (const result of this.#stream<RecordResult>(query, [])) {
      const record = decodeRecord(result)
      findings.checkRecord(record, recordChecksum(record) === result.checksum)
    }
    if (repair) {
      await this.#write(async (client) => {
        await client.query(`DELETE FROM ${this.#rows} WHERE id = ANY($1)`, [lost.map(escaped)])
        const keys = findings.documents.map(keyOf)
        await client.query(`DELETE FROM ${this.#documents} WHERE key = ANY($1::uuid[])`, [keys])
      })
    }
    return findings.verification
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await Promise.allSettled([this.#writing, this.#background])
    await this.#place.pool.end()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async #hashes(client: Pool | PoolClient, ids: readonly string[]): Promise<Map<string, string>> {
    const { rows } = await client.query<{ id: string; content_hash: string }>(
      `SELECT id, content_hash FROM ${this.#rows} WHERE key = ANY($1::uuid[])`,
      [ids.map(keyOf)],
    )
    return new Map(rows.map(({ id, content_hash }) => [unescaped(id), unescaped(content_hash)]))
  }

  async #byId<Result extends { readonly id: string }, Value>(
    ids: readonly string[],
    columns: string,
    decode: (result: Result) => Value,
  ): Promise<(Value | undefined)[]> {
    this.#checkOpen()
    const query = `SELECT ${columns} FROM ${this.#rows} WHERE key = ANY($1::uuid[])`
    const { rows } = await this.#read((pool) => pool.query<Result>(query, [ids.map(keyOf)]))
    const found = new Map(rows.map((result) => [result.id, result]))
    // decoded anew for every place: callers own what they get
    return ids.map((id) => {
      const result = found.get(escaped(id))
      return result && decode(result)
    })
  }

  async #number(
    pool: Pool,
    text: string,
    parameters: { readonly values: unknown[] } = { values: [] },
  ): Promise<number> {
    const { rows } = await pool.query<[string]>({ text, values: parameters.values, rowMode: 'array' })
    return Number(rows[0]?.[0])
  }

  /** All results of a query as one moment left them, a few at a time. */
  async *#stream<Result extends object>(query: string, values: unknown[]): AsyncGenerator<Result> {
    // With a single connection, writes must pass between the fetches: the server keeps the results. Otherwise a transaction of its own does.
    const held = this.#place.connections === 1
    const cursor = `clara_${createHash('sha256').update(`${Math.random()}`).digest('hex').slice(0, 16)}`
    const client = await withRetries(this.#place.patience, async () => {
      const one = await this.#place.pool.connect()
      try {
        await one.query('BEGIN')
        await one.query(`DECLARE ${cursor} NO SCROLL CURSOR ${held ? 'WITH HOLD ' : ''}FOR ${query}`, values)
        if (!held) return one
        await one.query('COMMIT')
        one.release()
        return this.#place.pool
      } catch (error) {
        one.release(true)
        throw error
      }
    })
    let sound = false
    try {
      for (;;) {
        this.#checkOpen()
        const { rows } = await withRetries(0, () => client.query<Result>(`FETCH ${FETCHED} FROM ${cursor}`))
        if (rows.length === 0) break
        for (const row of rows) {
          this.#checkOpen()
          yield row
        }
      }
      sound = true
    } finally {
      if (!this.#closed) await client.query(`CLOSE ${cursor}`).catch(() => undefined)
      if ('release' in client) {
        if (sound) await client.query('COMMIT').catch(() => undefined)
        client.release(!sound)
      }
    }
  }

  #read<Value>(read: (pool: Pool) => Promise<Value>): Promise<Value> {
    return withRetries(this.#place.patience, () => read(this.#place.pool))
  }

  /** One after the other: a write that waits for its turn holds no connection, so that readers have theirs. */
  #write<Value>(write: (client: PoolClient) => Promise<Value>): Promise<Value> {
    const { pool, schema, lockTimeout, patience } = this.#place
    const run = this.#writing.then(() =>
      withRetries(patience, () =>
        inTransaction(pool, async (client) => {
          await lockStore(client, schema, lockTimeout)
          return write(client)
        }),
      ),
    )
    this.#writing = run.catch(() => undefined)
    return run.then((value) => {
      this.#maintain()
      return value
    })
  }

  async #worthAnIndex(pool: Pool, filter: RowFilter | undefined): Promise<boolean> {
    if (!(await this.#hasIndex(pool))) return false
    const parameters = new Parameters()
    const condition = conditionOf(filter, parameters)
    const some = `SELECT FROM ${this.#rows} WHERE ${condition} LIMIT ${this.#place.exactUpTo + 1}`
    return (await this.#number(pool, `SELECT count(*) FROM (${some}) AS limited`, parameters)) > this.#place.exactUpTo
  }

  async #hasIndex(pool: Pool | PoolClient): Promise<boolean> {
    const { rows } = await pool.query(
      `SELECT FROM pg_index JOIN pg_class ON oid = indexrelid WHERE indrelid = $1::regclass AND relname = $2 AND indisvalid`,
      [this.#rows, INDEX],
    )
    return rows.length > 0
  }

  /** In the background: what it does can wait, and when it fails, `stats` says so and a later write tries again. */
  #maintain(): void {
    if (this.#closed || this.#background !== undefined || ++this.#writes % 16 !== 0) return
    this.#background = this.#refreshIndex()
      .catch((error: unknown) => {
        this.#problem = error instanceof Error ? error.message : String(error)
      })
      .finally(() => {
        this.#background = undefined
      })
  }

  /** Makes the vector index once the store has outgrown comparing; from then on the database keeps it up to date. */
  async #refreshIndex(): Promise<void> {
    const { pool, schema } = this.#place
    const { vectorWidth } = this.description
    if (vectorWidth > WIDEST_INDEXED) return
    const some = `SELECT FROM ${this.#rows} LIMIT ${this.#place.exactUpTo + 1}`
    if ((await this.#number(pool, `SELECT count(*) FROM (${some}) AS limited`)) <= this.#place.exactUpTo) return
    if (await this.#hasIndex(pool)) return
    const client = await pool.connect()
    const keys = lockKeys(`${schema} index`)
    try {
      await client.query('SELECT pg_advisory_lock($1, $2)', keys)
      if (await this.#hasIndex(client)) return
      // one that an interrupted making left is of no use
      await client.query(`DROP INDEX IF EXISTS "${schema}"."${INDEX}"`)
      await client.query(
        `CREATE INDEX CONCURRENTLY ${INDEX} ON ${this.#rows} USING hnsw ((vector::halfvec(${vectorWidth})) halfvec_cosine_ops)`,
      )
      this.#problem = undefined
    } finally {
      await client.query('SELECT pg_advisory_unlock($1, $2)', keys).catch(() => undefined)
      client.release()
    }
  }

  #checkOpen(): void {
    if (this.#closed) throw new ClaraError('The store is closed.', { hint: 'Open it again.' })
  }
}

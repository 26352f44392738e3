import { createHash } from 'node:crypto'
import type { Pool, PoolClient } from 'pg'
import { ClaraError } from '../../errors.ts'
import { decodeMemory, recordChecksum, rowChecksum } from '../codec.ts'
import { MOST_NAMED, missingChunks } from '../damage.ts'
import { checkFilter } from '../filter.ts'
import { checkSchemaVersion, migrate, SCHEMA_VERSION } from '../schema.ts'
import type {
  AddOutcome,
  Candidate,
  Damage,
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
import { inTransaction, openPool, withRetries } from './connection.ts'
import { conditionOf, keyOf, Parameters } from './filter.ts'
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
import { createStore, migrations, readDescription, type TableName, tablesOf, WIDEST_INDEXED } from './schema.ts'
import { escaped, unescaped } from './text.ts'
import { searchText } from './words.ts'

export interface PostgresStoreOptions {
  /** What the store is for. Needed to make one; an existing one is checked against it, and opened without. */
  readonly description?: StoreDescription
  /** The database's schema that holds the store's tables; several stores may share a database. Default: `clara`. */
  readonly schema?: string
  /** Connections at most. Default: 4. */
  readonly connections?: number
  /** How long to wait for another writer. Milliseconds. Default: 30,000. */
  readonly lockTimeout?: number
  /** How long to try again when the database cannot be reached. Milliseconds. Default: 10,000. */
  readonly patience?: number
}

/** Up to this many rows, comparing the query with each is fast enough. */
const EXACT_UP_TO = 10_000
/** Rows that a reader of all asks for at a time. */
const FETCHED = 64
const INDEX = 'rows_vector'

interface Place {
  readonly pool: Pool
  readonly schema: string
  readonly tables: TableName
  readonly description: StoreDescription
  readonly connections: number
  readonly lockTimeout: number
  readonly patience: number
}

/**
 * Opens a store in a PostgreSQL database with pgvector (0.7 or later), and makes it when there is none yet and a description is given.
 *
 * @param url Address of the database, as in `postgresql://user:password@host:5432/database`.
 * @throws ClaraError when the package `pg` or the extension is missing, the database cannot be reached, or it holds another model's store or
 *   one of a newer schema; when there is no store and no description.
 */
export async function openPostgresStore(url: string, options: PostgresStoreOptions = {}): Promise<Store> {
  const { description, schema = 'clara', connections = 4, lockTimeout = 30_000, patience = 10_000 } = options
  if (description !== undefined) checkDescription(description)
  const tables = tablesOf(schema)
  const name = `The store "${schema}" in the database`
  const pool = await openPool(url, connections)
  try {
    const found = await withRetries(patience, async () => {
      const present = await readDescription(pool, tables)
      if (present?.schemaVersion === SCHEMA_VERSION) return present
      return inTransaction(pool, async (client) => {
        await lockStore(client, schema, lockTimeout)
        const current = await readDescription(client, tables)
        if (current !== undefined) {
          await migrate(name, current.schemaVersion, client, migrations, async (version) => {
            await client.query(`UPDATE ${tables('store')} SET schema_version = $1`, [version])
          })
          return { ...current, schemaVersion: SCHEMA_VERSION }
        }
        if (description === undefined) {
          throw new ClaraError(`There is no store "${schema}" in the database.`, {
            hint: 'Add documents first, or name another schema.',
          })
        }
        await createStore(client, schema, tables, description)
        return { schemaVersion: SCHEMA_VERSION, description: structuredClone(description) }
      })
    })
    checkSchemaVersion(name, found.schemaVersion)
    checkDescription(found.description)
    if (description !== undefined) checkSameStore(name, found.description, description)
    const place = { pool, schema, tables, description: found.description, connections, lockTimeout, patience }
    return new PostgresStore(place)
  } catch (error) {
    await pool.end()
    throw error
  }
}

/** Two numbers that stand for the store among the database's advisory locks. */
function lockKeys(schema: string): [number, number] {
  const hash = createHash('sha256').update(`clara ${schema}`).digest()
  return [hash.readInt32BE(0), hash.readInt32BE(4)]
}

/** Excludes other writers until the transaction ends. */
async function lockStore(client: PoolClient, schema: string, timeout: number): Promise<void> {
  const keys = lockKeys(schema)
  await client.query("SELECT set_config('lock_timeout', $1, true)", [`${Math.max(1, Math.round(timeout))}ms`])
  try {
    await client.query('SAVEPOINT before_lock')
    await client.query('SELECT pg_advisory_xact_lock($1, $2)', keys)
    await client.query("SELECT set_config('lock_timeout', '0', true)")
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === '55P03')) throw error
    await client.query('ROLLBACK TO SAVEPOINT before_lock')
    const { rows } = await client.query<{ pid: number; name: string; address: string | null }>(
      `SELECT a.pid, a.application_name AS name, host(a.client_addr) AS address
       FROM pg_locks l JOIN pg_stat_activity a USING (pid)
       WHERE l.locktype = 'advisory' AND l.granted AND l.classid::bigint = $1 AND l.objid::bigint = $2`,
      keys.map((key) => key >>> 0),
    )
    const [holder] = rows
    const who = holder
      ? `database session ${holder.pid}, "${holder.name}"${holder.address === null ? '' : `, from ${holder.address}`}`
      : 'another session'
    throw new ClaraError(`Another writer holds the store: ${who}.`, {
      expected: `it to finish within ${timeout / 1000} s`,
      hint: 'Wait for it, or end it. Reading works meanwhile.',
      cause: error,
    })
  }
}

class PostgresStore implements Store {
  readonly description: StoreDescription
  readonly #place: Place
  readonly #rows: string
  readonly #documents: string
  #closed = false
  #background: Promise<void> | undefined
  #problem: string | undefined
  #writes = 0

  constructor(place: Place) {
    this.description = place.description
    this.#place = place
    this.#rows = place.tables('rows')
    this.#documents = place.tables('documents')
  }

  async add(rows: readonly StoreRow[], options: { readonly fingerprint: string }): Promise<AddOutcome> {
    this.#checkOpen()
    checkFingerprint('A row to add', options.fingerprint, this.description)
    checkRows(rows, this.description)
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
    checkFingerprint('The query', options.fingerprint, this.description)
    checkVector('The query vector', vector, this.description)
    checkLimit(options.limit)
    checkFilter(options.filter)
    const { vectorWidth } = this.description
    const approximate = !options.exact && (await this.#read((pool) => this.#worthAnIndex(pool, options.filter)))
    const parameters = new Parameters()
    const query = `${parameters.add(`[${unitVector(vector).join(',')}]`)}::vector(${vectorWidth})`
    const condition = conditionOf(options.filter, parameters)
    const limit = parameters.add(options.limit)
    // The index knows halves; what it finds is compared again in full.
    const source = approximate
      ? `(SELECT id, document_id, vector FROM ${this.#rows} WHERE ${condition}
          ORDER BY vector::halfvec(${vectorWidth}) <=> ${query}::halfvec(${vectorWidth}) LIMIT 2 * ${limit}::bigint)`
      : `(SELECT id, document_id, vector FROM ${this.#rows} WHERE ${condition})`
    const text = `SELECT id, document_id, 1 - (vector <=> ${query}) AS score FROM ${source} AS candidates
      ORDER BY vector <=> ${query}, id COLLATE "C" LIMIT ${limit}`
    return withRetries(this.#place.patience, () =>
      inTransaction(this.#place.pool, async (client) => {
        if (approximate) {
          const breadth = Math.min(1000, Math.max(100, 2 * options.limit))
          await client.query("SELECT set_config('hnsw.ef_search', $1, true)", [String(breadth)])
          await client.query("SELECT set_config('hnsw.iterative_scan', 'strict_order', true)")
        }
        const { rows } = await client.query<{ id: string; document_id: string; score: number }>(text, parameters.values)
        return rows
          .map(({ id, document_id, score }) => ({
            id: unescaped(id),
            documentId: unescaped(document_id),
            score: Math.max(-1, Math.min(1, score)),
          }))
          .sort((a, b) => b.score - a.score || (a.id < b.id ? -1 : 1))
      }),
    )
  }

  async searchText(query: string, options: TextSearchOptions): Promise<Candidate[]> {
    this.#checkOpen()
    checkLimit(options.limit)
    checkFilter(options.filter)
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

  async verify(): Promise<Verification> {
    this.#checkOpen()
    const damaged: Damage[] = []
    const report = (damage: Damage) => {
      if (damaged.length < MOST_NAMED) damaged.push(damage)
    }
    const chunks = new Map<string, number[]>()
    let rows = 0
    for await (const result of this.#stream<RowResult>(`SELECT ${rowColumns} FROM ${this.#rows}`, [])) {
      rows++
      const name = { id: unescaped(result.id), documentId: unescaped(result.document_id) }
      try {
        const { row, checksum } = decodeRow(result)
        decodeMemory(row.memory)
        if (rowChecksum(row) !== checksum) throw new ClaraError('its checksum differs')
        const numbers = chunks.get(row.documentId)
        if (numbers) numbers.push(row.chunk)
        else chunks.set(row.documentId, [row.chunk])
      } catch (error) {
        report({ ...name, problem: error instanceof Error ? error.message : String(error) })
      }
    }
    const query = `SELECT document_id, content_hash, chunks, details, checksum FROM ${this.#documents}`
    for await (const result of this.#stream<RecordResult>(query, [])) {
      const document = decodeRecord(result)
      const { documentId } = document
      if (recordChecksum(document) !== result.checksum)
        report({ documentId, problem: 'its record has another checksum' })
      for (const damage of missingChunks(document, chunks.get(documentId))) report(damage)
    }
    return { rows, damaged }
  }

  async close(): Promise<void> {
    if (this.#closed) return
    this.#closed = true
    await this.#background
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

  async #write<Value>(write: (client: PoolClient) => Promise<Value>): Promise<Value> {
    const { pool, schema, lockTimeout, patience } = this.#place
    const value = await withRetries(patience, () =>
      inTransaction(pool, async (client) => {
        await lockStore(client, schema, lockTimeout)
        return write(client)
      }),
    )
    this.#maintain()
    return value
  }

  async #worthAnIndex(pool: Pool, filter: RowFilter | undefined): Promise<boolean> {
    if (!(await this.#hasIndex(pool))) return false
    const parameters = new Parameters()
    const condition = conditionOf(filter, parameters)
    const some = `SELECT FROM ${this.#rows} WHERE ${condition} LIMIT ${EXACT_UP_TO + 1}`
    return (await this.#number(pool, `SELECT count(*) FROM (${some}) AS limited`, parameters)) > EXACT_UP_TO
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
    const some = `SELECT FROM ${this.#rows} LIMIT ${EXACT_UP_TO + 1}`
    if ((await this.#number(pool, `SELECT count(*) FROM (${some}) AS limited`)) <= EXACT_UP_TO) return
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

function slices<Item>(items: readonly Item[], size: number): Item[][] {
  const result: Item[][] = []
  for (let start = 0; start < items.length; start += size) result.push(items.slice(start, start + size))
  return result
}

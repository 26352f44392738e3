import type { Pool, PoolClient } from 'pg'
import { ClaraError } from '../../errors.ts'
import { type Migration, SCHEMA_VERSION } from '../schema.ts'
import type { StoreDescription } from '../store.ts'

/** The widest vector that pgvector keeps, and the widest half-precision one that it indexes. */
const WIDEST = 16_000
export const WIDEST_INDEXED = 4_000

/** A table of the store; `schema` has been checked to be a plain name. */
export type TableName = (table: 'store' | 'rows' | 'documents') => string

/** @throws ClaraError unless it is a plain name, which needs no quoting. */
export function tablesOf(schema: string): TableName {
  if (!/^[a-z_][a-z0-9_]{0,62}$/.test(schema)) {
    throw new ClaraError(`"${schema}" is no name for the store's schema.`, {
      expected: 'lower-case letters, digits and underscores, at most 63',
    })
  }
  return (table) => `"${schema}"."${table}"`
}

/** Steps from older schema versions; there is none yet. */
export const migrations: readonly Migration<PoolClient>[] = []

/** What the database holds under this schema; undefined when there is no store in it. */
export async function readDescription(
  pool: Pool | PoolClient,
  tables: TableName,
): Promise<{ schemaVersion: number; description: StoreDescription } | undefined> {
  const { rows: present } = await pool.query<{ present: boolean }>('SELECT to_regclass($1) IS NOT NULL AS present', [
    tables('store'),
  ])
  if (!present[0]?.present) return undefined
  const { rows } = await pool.query<{ schema_version: number; description: string }>(
    `SELECT schema_version, description FROM ${tables('store')}`,
  )
  const [row] = rows
  return row && { schemaVersion: row.schema_version, description: JSON.parse(row.description) }
}

/** Makes the store's tables. Runs inside a transaction, so that there is a whole store or none. */
export async function createStore(
  client: PoolClient,
  schema: string,
  tables: TableName,
  description: StoreDescription,
): Promise<void> {
  const { vectorWidth } = description
  if (vectorWidth === 0) {
    throw new ClaraError('A store in PostgreSQL finds by retrieval vectors, and needs them.', {
      expected: `a vectorWidth from 1 to ${WIDEST}`,
      received: '0',
    })
  }
  if (vectorWidth > WIDEST) {
    throw new ClaraError('The retrieval vectors are too wide for PostgreSQL.', {
      expected: `at most ${WIDEST} numbers`,
      received: String(vectorWidth),
      hint: 'Use the projection to a compact vector.',
    })
  }
  await createExtension(client)
  await client.query(`CREATE SCHEMA IF NOT EXISTS "${schema}"`)
  await client.query(`CREATE TABLE ${tables('store')} (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    schema_version integer NOT NULL,
    description text NOT NULL
  )`)
  await client.query(`CREATE TABLE ${tables('rows')} (
    key uuid PRIMARY KEY,
    document_key uuid NOT NULL,
    chunk integer NOT NULL,
    id text NOT NULL,
    document_id text NOT NULL,
    text text NOT NULL,
    metadata jsonb NOT NULL,
    content_hash text NOT NULL,
    memory bytea NOT NULL,
    vector vector(${vectorWidth}) NOT NULL,
    words tsvector NOT NULL,
    length integer NOT NULL,
    checksum text NOT NULL
  )`)
  // Memory does not shrink by compression, and is read in whole.
  await client.query(`ALTER TABLE ${tables('rows')} ALTER COLUMN memory SET STORAGE EXTERNAL`)
  await client.query(`CREATE INDEX rows_document ON ${tables('rows')} (document_key)`)
  await client.query(`CREATE INDEX rows_words ON ${tables('rows')} USING gin (words)`)
  await client.query(`CREATE TABLE ${tables('documents')} (
    key uuid PRIMARY KEY,
    document_id text NOT NULL,
    content_hash text NOT NULL,
    chunks integer NOT NULL,
    details jsonb NOT NULL,
    checksum text NOT NULL
  )`)
  await client.query(`INSERT INTO ${tables('store')} (schema_version, description) VALUES ($1, $2)`, [
    SCHEMA_VERSION,
    JSON.stringify(description),
  ])
}

async function createExtension(client: PoolClient): Promise<void> {
  const { rows } = await client.query<{ name: string; installed: string | null; encoding: string }>(
    `SELECT name, installed_version AS installed, current_setting('server_encoding') AS encoding
     FROM pg_available_extensions WHERE name = 'vector'`,
  )
  const [extension] = rows
  if (extension === undefined) {
    throw new ClaraError('The database has no pgvector.', {
      expected: 'the extension "vector", version 0.7 or later',
      hint: 'Install pgvector on the database server (the package is often called postgresql-NN-pgvector).',
    })
  }
  if (extension.encoding !== 'UTF8') {
    throw new ClaraError('The database does not keep all characters.', {
      expected: 'encoding UTF8',
      received: extension.encoding,
      hint: "Create a database with ENCODING 'UTF8'.",
    })
  }
  if (extension.installed === null) await client.query('CREATE EXTENSION IF NOT EXISTS vector')
}

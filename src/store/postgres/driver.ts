import { ClaraError } from '../../errors.ts'
import { checkSchemaVersion, migrate, SCHEMA_VERSION, UNCHANGED_SINCE } from '../schema.ts'
import type { Store, StoreDescription } from '../store.ts'
import { checkDescription, checkSameStore } from '../validation.ts'
import { inTransaction, openPool, withRetries } from './connection.ts'
import { lockStore } from './lock.ts'
import { PostgresStore } from './postgres-store.ts'
import { createStore, migrations, readDescription, tablesOf } from './schema.ts'

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
  /** Rows up to which a search compares with each; with more, an index is made in the background. Default: 10,000. */
  readonly exactUpTo?: number
}

const isUnchanged = (version: number) => version >= UNCHANGED_SINCE && version <= SCHEMA_VERSION

/**
 * Opens a store in a PostgreSQL database with pgvector (0.7 or later), and makes it when there is none yet and a description is given.
 *
 * @param url Address of the database, as in `postgresql://user:password@host:5432/database`.
 * @throws ClaraError when the package `pg` or the extension is missing, the database cannot be reached, or it holds another model's store or
 *   one of a newer schema; when there is no store and no description.
 */
export async function openPostgresStore(url: string, options: PostgresStoreOptions = {}): Promise<Store> {
  const { description, schema = 'clara', connections = 4 } = options
  const { lockTimeout = 30_000, patience = 10_000, exactUpTo = 10_000 } = options
  if (description !== undefined) checkDescription(description)
  const tables = tablesOf(schema)
  const name = `The store "${schema}" in the database`
  const pool = await openPool(url, connections)
  try {
    const found = await withRetries(patience, async () => {
      const present = await readDescription(pool, tables)
      if (present !== undefined && isUnchanged(present.schemaVersion)) return present
      return inTransaction(pool, async (client) => {
        await lockStore(client, schema, lockTimeout)
        const current = await readDescription(client, tables)
        if (current !== undefined) {
          if (isUnchanged(current.schemaVersion)) return current
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
    const place = {
      pool,
      schema,
      tables,
      description: found.description,
      connections,
      lockTimeout,
      patience,
      exactUpTo,
    }
    return new PostgresStore(place)
  } catch (error) {
    await pool.end()
    throw error
  }
}

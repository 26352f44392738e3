import { resolve } from 'node:path'
import { ClaraError } from '../../errors.ts'
import { checkSchemaVersion, type Migration, migrate, SCHEMA_VERSION, UNCHANGED_SINCE } from '../schema.ts'
import type { Store, StoreDescription } from '../store.ts'
import { checkDescription, checkSameStore } from '../validation.ts'
import { explained, prepareFolder, readStoreFile, writerLock, writeStoreFile } from './folder.ts'
import { LanceStore } from './lance-store.ts'
import { lock } from './lock.ts'
import { countRows, createTables, openTables, type Tables } from './tables.ts'

export interface LanceStoreOptions {
  /** What the store is for. Needed to make one; an existing one is checked against it, and opened without. */
  readonly description?: StoreDescription
  /** How long to wait for another writer. Milliseconds. Default: 30,000. */
  readonly lockTimeout?: number
  /** Rows up to which a search compares with each; with more, an index is made in the background. Default: 10,000. */
  readonly exactUpTo?: number
  /** Whether files are joined and indexes refreshed without being asked, as the store grows; `compact` does both. Default: true. */
  readonly background?: boolean
}

/** Steps from older schema versions; there is none yet. */
const migrations: readonly Migration<Tables>[] = []

/**
 * Opens a store in a folder, by LanceDB, and makes it when there is none yet and a description is given.
 *
 * @throws ClaraError when the folder holds another model's store, one of a newer schema, or something else; when there is none and no description.
 */
export async function openLanceStore(path: string, options: LanceStoreOptions = {}): Promise<Store> {
  const { description, lockTimeout = 30_000, exactUpTo = 10_000, background = true } = options
  if (description !== undefined) checkDescription(description)
  const folder = resolve(path)
  const name = `The store "${path}"`
  try {
    const found = (await readStoreFile(folder)) ?? (await createStore(path, folder, description, lockTimeout))
    checkSchemaVersion(name, found.schemaVersion)
    if (description !== undefined) checkSameStore(name, found.description, description)
    const tables = await openTables(folder, found.description.vectorWidth)
    if (Number(found.schemaVersion) < UNCHANGED_SINCE) await upgrade(name, folder, tables, lockTimeout)
    return new LanceStore(found.description, { folder, tables, lockTimeout, exactUpTo, background })
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
    if ((await countRows(folder)) > 0) {
      throw new ClaraError(`The store "${path}" has lost its description.`, {
        expected: 'its file store.json',
        hint: 'Restore the file from a copy, or choose another folder.',
      })
    }
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

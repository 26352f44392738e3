import type * as LanceModule from '@lancedb/lancedb'
import type * as ArrowModule from 'apache-arrow'
import { ClaraError } from '../../errors.ts'
import { dataFolder, readersFolder } from './folder.ts'
import { pin } from './lock.ts'
import { type Arrow, documentsSchema, rowsSchema } from './rows.ts'

/* LanceDB itself: 180 MB of it are loaded when the first store is opened. */

export type Lance = typeof LanceModule

export interface Tables {
  readonly lance: Lance
  readonly arrow: Arrow
  readonly connection: LanceModule.Connection
  readonly rows: LanceModule.Table
  readonly documents: LanceModule.Table
  readonly rowsSchema: ArrowModule.Schema
  readonly documentsSchema: ArrowModule.Schema
}

const ROWS = 'rows'
const DOCUMENTS = 'documents'

async function load(): Promise<{ lance: Lance; arrow: Arrow }> {
  // Its native part writes warnings to the terminal, which belongs to the program.
  process.env.LANCEDB_LOG ??= 'error'
  try {
    return { lance: await import('@lancedb/lancedb'), arrow: await import('apache-arrow') }
  } catch (cause) {
    throw new ClaraError('LanceDB, which keeps stores on disk, could not be loaded.', {
      hint: 'Install again with optional dependencies: its binary for this platform is one of them.',
      cause,
    })
  }
}

/** Opens the tables of a store's folder. `vectorWidth`: of its retrieval vectors. */
export async function openTables(folder: string, vectorWidth: number): Promise<Tables> {
  const { lance, arrow } = await load()
  // 0: every read looks for what other processes have written since.
  const connection = await lance.connect(dataFolder(folder), { readConsistencyInterval: 0 })
  return {
    lance,
    arrow,
    connection,
    rows: await connection.openTable(ROWS),
    documents: await connection.openTable(DOCUMENTS),
    rowsSchema: rowsSchema(arrow, vectorWidth),
    documentsSchema: documentsSchema(arrow),
  }
}

/** Rows that a folder holds, whatever else it lacks. */
export async function countRows(folder: string): Promise<number> {
  const { lance } = await load()
  const connection = await lance.connect(dataFolder(folder))
  const tables = await connection.tableNames()
  return tables.includes(ROWS) ? (await connection.openTable(ROWS)).countRows() : 0
}

/** Makes empty tables with their indexes, in the place of any that an interrupted making left. */
export async function createTables(folder: string, vectorWidth: number): Promise<void> {
  const { lance, arrow } = await load()
  const connection = await lance.connect(dataFolder(folder))
  const rows = await connection.createEmptyTable(ROWS, rowsSchema(arrow, vectorWidth), { mode: 'overwrite' })
  // Without it, merges from two handles may keep two rows with one key.
  await rows.setUnenforcedPrimaryKey('key')
  await rows.createIndex('key', { config: lance.Index.btree() })
  await rows.createIndex('document_key', { config: lance.Index.btree() })
  await rows.createIndex('facts', { config: lance.Index.labelList() })
  await rows.createIndex('words', {
    // The words are cut already, in one way for all drivers.
    config: lance.Index.fts({
      baseTokenizer: 'whitespace',
      withPosition: false,
      lowercase: false,
      stem: false,
      removeStopWords: false,
      asciiFolding: false,
      maxTokenLength: 1_000,
    }),
  })
  const documents = await connection.createEmptyTable(DOCUMENTS, documentsSchema(arrow), { mode: 'overwrite' })
  await documents.setUnenforcedPrimaryKey('key')
  await documents.createIndex('key', { config: lance.Index.btree() })
  connection.close()
}

/**
 * Reads one table as it is now, whatever is written, joined or deleted meanwhile.
 * @returns A handle of its own on that version, and what gives it back.
 */
export async function pinned(
  folder: string,
  { connection }: Tables,
  name: 'rows' | 'documents',
): Promise<{ readonly table: LanceModule.Table; readonly release: () => Promise<void> }> {
  const table = await connection.openTable(name)
  // What is needed is no older than the version's own time; the note is there before the version is chosen, so none is deleted in between.
  const version = (await table.listVersions()).at(-1)
  const release = await pin(readersFolder(folder), version?.timestamp ?? new Date())
  try {
    await table.checkout(version?.version ?? (await table.version()))
  } catch (error) {
    await release()
    throw error
  }
  return {
    table,
    release: async () => {
      table.close()
      await release()
    },
  }
}

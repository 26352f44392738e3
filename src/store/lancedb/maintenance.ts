import type { Table } from '@lancedb/lancedb'
import type { StoreStats } from '../store.ts'
import { readersFolder } from './folder.ts'
import { earliestPin } from './lock.ts'
import type { Tables } from './tables.ts'

/*
 * Every write adds a small file, and a reader opens them all; every index holds the rows that were there when it was last brought up to date, and the
 * others are looked at one by one. So from time to time files are joined and indexes refreshed: often enough for fast reads, and seldom
 * enough that rows are rewritten a number of times that does not grow with the store.
 */

/** Rows per partition of the vector index, about; a search looks into `PROBES` of them. */
const ROWS_PER_PARTITION = 1_024
/** Writes after which it is worth a look. */
const WRITES = 64
/** Share of the rows that may be new before files are joined; with more files than this they are joined anyway. */
const NEW_SHARE = 0.25
const MOST_FILES = 2_048

const VECTOR_INDEX = 'vector_idx'

/** Whether files should be joined and indexes refreshed. */
export async function isUntidy(rows: Table): Promise<boolean> {
  const { numRows, fragmentStats } = await rows.stats()
  if (fragmentStats.numFragments < WRITES) return false
  // the largest file is what was joined last
  const fresh = numRows - fragmentStats.lengths.max
  return fresh > NEW_SHARE * numRows || fragmentStats.numFragments > MOST_FILES
}

/** Joins files, refreshes indexes, and deletes versions that nobody reads any more. Only under the writer's lock: it rewrites files. */
export async function tidy(folder: string, tables: Tables): Promise<void> {
  for (const table of [tables.rows, tables.documents]) {
    await table.checkoutLatest()
    // Joined first and deleted after, so that a reader who comes meanwhile finds the newest files.
    await table.optimize({ cleanupOlderThan: new Date(0) })
    await table.optimize({ cleanupOlderThan: (await earliestPin(readersFolder(folder))) ?? new Date() })
  }
}

/** Rows of the store, and how many the vector index holds; undefined without one. */
export async function indexState(
  rows: Table,
): Promise<{ readonly rows: number; readonly indexed: number | undefined }> {
  const count = await rows.countRows()
  const stats = await rows.indexStats(VECTOR_INDEX)
  return { rows: count, indexed: stats?.numIndexedRows }
}

/** Whether the vector index is to be made anew: there is none, or the store has outgrown it. `trained`: rows at its making. */
export function needsIndex(rows: number, indexed: number | undefined, trained: number, exactUpTo: number): boolean {
  if (rows <= exactUpTo) return false
  return indexed === undefined || rows > 4 * Math.max(trained, exactUpTo)
}

/**
 * Makes the vector index: inverted file, product quantisation of 4 numbers to a byte. The candidates are then compared exactly (`refineFactor`), so
 * that the index decides only which rows are looked at. Safe beside readers and writers.
 */
export async function buildIndex({ lance, rows }: Tables, count: number, vectorWidth: number): Promise<void> {
  await rows.checkoutLatest()
  await rows.createIndex('vector', {
    config: lance.Index.ivfPq({
      distanceType: 'cosine',
      numPartitions: Math.max(1, Math.round(count / ROWS_PER_PARTITION)),
      numSubVectors: vectorWidth % 4 === 0 ? vectorWidth / 4 : vectorWidth,
      maxIterations: 20,
      sampleRate: 64,
    }),
    replace: true,
  })
}

export async function indexStats(rows: Table, problem: string | undefined): Promise<StoreStats['index']> {
  const { rows: count, indexed } = await indexState(rows)
  return {
    kind: indexed === undefined ? 'exact' : 'approximate',
    unindexed: indexed === undefined ? 0 : count - indexed,
    ...(problem === undefined ? {} : { problem }),
  }
}

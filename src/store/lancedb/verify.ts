import type { Table } from '@lancedb/lancedb'
import type { RecordBatch } from 'apache-arrow'
import { recordChecksum, rowChecksum } from '../codec.ts'
import type { Findings } from '../damage.ts'
import { oneOf } from './filter.ts'
import { briefly } from './folder.ts'
import { decodeDocument, decodeRow, rowColumns, textAt } from './rows.ts'
import { pinned, type Tables } from './tables.ts'

/*
 * A row's place is a number, file · 2^32 + position, and the places of all rows are known without reading the files that hold them. So what a
 * damaged file still gives can be told from what it does not.
 */

/** Rows that are read at a time. */
const BLOCK = 256
const FILE = 2n ** 32n

/** Reads every row and record, and compares them with their checksums and with each other. Returns the places of rows that cannot be kept. */
export async function verifyTables(folder: string, tables: Tables, findings: Findings): Promise<bigint[]> {
  const { table, release } = await pinned(folder, tables, 'rows')
  const lost: bigint[] = []
  const columns = rowColumns(tables.rowsSchema)
  try {
    for (const places of filesOf(await placesOf(table))) {
      // When neither the first, the middle nor the last row can be read, the file itself is damaged, and not tried row by row.
      const samples = [places[0], places[places.length >> 1], places.at(-1)].filter((place) => place !== undefined)
      const problems = await Promise.all(samples.map((place) => read(table, columns, [place]).catch(briefly)))
      const [problem] = problems
      if (places.length > BLOCK && typeof problem === 'string' && problems.every((one) => typeof one === 'string')) {
        findings.report({ problem: `${places.length} rows in one file cannot be read: ${problem}` })
        lost.push(...places)
        continue
      }
      for (let start = 0; start < places.length; start += BLOCK) {
        lost.push(...(await verifyBlock(table, columns, places.slice(start, start + BLOCK), findings)))
      }
    }
  } finally {
    await release()
  }
  await verifyDocuments(tables, findings)
  return lost
}

/** Removes what cannot be kept, so that adding the same documents again writes it anew. */
export async function removeDamage(
  tables: Tables,
  places: readonly bigint[],
  documents: readonly string[],
): Promise<void> {
  for (let start = 0; start < documents.length; start += 1_000) {
    await tables.documents.delete(oneOf('key', documents.slice(start, start + 1_000)))
  }
  for (let start = 0; start < places.length; start += 1_000) {
    await tables.rows.delete(`_rowid IN (${places.slice(start, start + 1_000).join(', ')})`)
  }
}

async function placesOf(table: Table): Promise<bigint[]> {
  const places: bigint[] = []
  for await (const batch of table.query().select([]).withRowId()) {
    for (const place of batch.getChild('_rowid') ?? []) places.push(BigInt(place))
  }
  return places
}

function filesOf(places: readonly bigint[]): bigint[][] {
  const files = new Map<bigint, bigint[]>()
  for (const place of places) {
    const file = files.get(place / FILE)
    if (file) file.push(place)
    else files.set(place / FILE, [place])
  }
  return [...files.values()]
}

async function read(table: Table, columns: readonly string[], places: bigint[]): Promise<RecordBatch[]> {
  const batches: RecordBatch[] = []
  for await (const batch of table
    .takeRowIds(places)
    .select([...columns])
    .withRowId())
    batches.push(batch)
  return batches
}

/** Checks some rows; when they cannot be read together, by halves, down to those that cannot be read at all. */
async function verifyBlock(
  table: Table,
  columns: readonly string[],
  places: bigint[],
  findings: Findings,
): Promise<bigint[]> {
  const lost: bigint[] = []
  let batches: RecordBatch[]
  try {
    batches = await read(table, columns, places)
  } catch (error) {
    if (places.length === 1) {
      findings.report({ problem: `a row cannot be read: ${briefly(error)}` })
      return places
    }
    const half = places.length >> 1
    return [
      ...(await verifyBlock(table, columns, places.slice(0, half), findings)),
      ...(await verifyBlock(table, columns, places.slice(half), findings)),
    ]
  }
  for (const batch of batches) {
    for (let index = 0; index < batch.numRows; index++) {
      findings.rows++
      if (!checkRow(batch, index, findings)) lost.push(BigInt(batch.getChild('_rowid')?.get(index)))
    }
  }
  return lost
}

function checkRow(batch: RecordBatch, index: number, findings: Findings): boolean {
  let name: { id?: string; documentId?: string } = {}
  try {
    name = { id: textAt(batch, 'id', index), documentId: textAt(batch, 'document_id', index) }
    const { row, checksum } = decodeRow(batch, index)
    if (findings.isRepeated(row)) findings.report({ ...name, problem: 'it is there more than once' })
    else if (rowChecksum(row) === checksum) return true
    else findings.report({ ...name, problem: 'its checksum differs' })
  } catch (error) {
    findings.report({ ...name, problem: briefly(error) })
  }
  return false
}

async function verifyDocuments(tables: Tables, findings: Findings): Promise<void> {
  const columns = ['document_id', 'content_hash', 'chunks', 'details', 'checksum']
  try {
    for await (const batch of tables.documents.query().select(columns)) {
      for (let index = 0; index < batch.numRows; index++) {
        const record = decodeDocument(batch, index)
        findings.checkRecord(record, recordChecksum(record) === textAt(batch, 'checksum', index))
      }
    }
  } catch (error) {
    findings.report({ problem: `the records of documents cannot be read: ${briefly(error)}` })
  }
}

import type { RecordBatch } from 'apache-arrow'
import { recordChecksum, rowChecksum } from '../codec.ts'
import { MOST_NAMED, missingChunks } from '../damage.ts'
import type { Damage, DocumentRecord, Verification } from '../store.ts'
import { decodeDocument, decodeRow, rowColumns, textAt } from './rows.ts'
import { pinned, type Tables } from './tables.ts'

/** Reads every row and record, and compares them with their checksums and with each other. */
export async function verifyTables(tables: Tables): Promise<Verification> {
  const damaged: Damage[] = []
  const report = (damage: Damage) => {
    if (damaged.length < MOST_NAMED) damaged.push(damage)
  }
  const chunks = new Map<string, number[]>()
  const seen = new Set<string>()
  let rows = 0
  const check = (batch: RecordBatch) => {
    for (let index = 0; index < batch.numRows; index++) {
      rows++
      const found = checkRow(batch, index)
      if (typeof found === 'object' && 'problem' in found) {
        report(found)
        continue
      }
      if (seen.has(found.id)) report({ ...found, problem: 'it is there more than once' })
      seen.add(found.id)
      const numbers = chunks.get(found.documentId)
      if (numbers) numbers.push(found.chunk)
      else chunks.set(found.documentId, [found.chunk])
    }
  }
  await readRows(tables, check, report)
  for await (const { record, problem } of readDocuments(tables)) {
    if (problem !== undefined) report(problem)
    if (record !== undefined) for (const damage of missingChunks(record, chunks.get(record.documentId))) report(damage)
  }
  return { rows, damaged }
}

function checkRow(batch: RecordBatch, index: number): Damage | { id: string; documentId: string; chunk: number } {
  let name: { id?: string; documentId?: string } = {}
  try {
    name = { id: textAt(batch, 'id', index), documentId: textAt(batch, 'document_id', index) }
    const { row, checksum } = decodeRow(batch, index)
    if (rowChecksum(row) !== checksum) return { ...name, problem: 'its checksum differs' }
    return { id: row.id, documentId: row.documentId, chunk: row.chunk }
  } catch (error) {
    return { ...name, problem: messageOf(error) }
  }
}

/** All rows at once; when a file cannot be read, those of every other file. */
async function readRows(
  tables: Tables,
  check: (batch: RecordBatch) => void,
  report: (damage: Damage) => void,
): Promise<void> {
  const table = await pinned(tables)
  try {
    const batches: RecordBatch[] = []
    // what a file lacks is seen at its end, so the rows are checked only when all could be read or each by itself
    for await (const batch of table.query().select([...rowColumns])) batches.push(batch)
    for (const batch of batches) check(batch)
  } catch (error) {
    report({ problem: messageOf(error) })
  } finally {
    table.close()
  }
}

async function* readDocuments(tables: Tables): AsyncGenerator<{ record?: DocumentRecord; problem?: Damage }> {
  try {
    const columns = ['document_id', 'content_hash', 'chunks', 'details', 'checksum']
    for await (const batch of tables.documents.query().select(columns)) {
      for (let index = 0; index < batch.numRows; index++) {
        try {
          const record = decodeDocument(batch, index)
          const sound = recordChecksum(record) === textAt(batch, 'checksum', index)
          const { documentId } = record
          yield sound ? { record } : { record, problem: { documentId, problem: 'its record has another checksum' } }
        } catch (error) {
          yield { problem: { problem: messageOf(error) } }
        }
      }
    }
  } catch (error) {
    yield { problem: { problem: `The records of documents: ${messageOf(error)}` } }
  }
}

function messageOf(error: unknown): string {
  const [line = ''] = (error instanceof Error ? error.message : String(error)).split('\n')
  return line.slice(0, 400)
}

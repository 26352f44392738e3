import { ClaraError } from '../../errors.ts'
import { decodeMemory, type EncodedRow, encodeMemory, isJsonObject, recordChecksum, rowChecksum } from '../codec.ts'
import type { DocumentRecord, JsonValue, StoreRow } from '../store.ts'
import { unitVector } from '../vector.ts'
import { wordsOf } from '../words.ts'
import { keyOf, Parameters } from './filter.ts'
import { escaped, unescaped, withStrings } from './text.ts'

/* Rows and records as parameters of statements, and back. */

/** Rows per statement: a statement takes 65,535 parameters. */
export const ROWS_PER_STATEMENT = 256

/** Columns of table rows as they are read. */
export const rowColumns =
  'id, document_id, chunk, text, metadata, content_hash, memory, vector::text AS vector, checksum'

export interface RowResult {
  readonly id: string
  readonly document_id: string
  readonly chunk: number
  readonly text: string
  readonly metadata: JsonValue
  readonly content_hash: string
  readonly memory: Uint8Array
  readonly vector: string
  readonly checksum: string
}

export interface RecordResult {
  readonly document_id: string
  readonly content_hash: string
  readonly chunks: number
  readonly details: JsonValue
  readonly checksum: string
}

const written = [
  ['key', 'uuid'],
  ['document_key', 'uuid'],
  ['chunk', 'integer'],
  ['id', 'text'],
  ['document_id', 'text'],
  ['text', 'text'],
  ['metadata', 'jsonb'],
  ['content_hash', 'text'],
  ['memory', 'bytea'],
  ['vector', 'vector'],
  ['words', 'tsvector'],
  ['length', 'integer'],
  ['checksum', 'text'],
] as const

/** The statement that writes these rows, over older ones with their keys. */
export function upsertRows(table: string, rows: readonly StoreRow[]): { text: string; values: unknown[] } {
  const parameters = new Parameters()
  const tuples = rows.map((given) => {
    const row: EncodedRow = { ...given, memory: encodeMemory(given.memory), vector: unitVector(given.vector) }
    const words = wordsOf(row.text)
    const values = [
      keyOf(row.id),
      keyOf(row.documentId),
      row.chunk,
      escaped(row.id),
      escaped(row.documentId),
      escaped(row.text),
      JSON.stringify(withStrings(row.metadata, escaped)),
      escaped(row.contentHash),
      Buffer.from(row.memory.buffer, row.memory.byteOffset, row.memory.byteLength),
      `[${row.vector.join(',')}]`,
      tsvectorOf(words),
      words.length,
      rowChecksum(row),
    ]
    return `(${values.map((value, index) => `${parameters.add(value)}::${written[index]?.[1]}`).join(', ')})`
  })
  return {
    text: upsert(
      table,
      written.map(([name]) => name),
      tuples,
    ),
    values: parameters.values,
  }
}

/** The statement that writes these records, over older ones of their documents. */
export function upsertRecords(table: string, records: readonly DocumentRecord[]): { text: string; values: unknown[] } {
  const parameters = new Parameters()
  const tuples = records.map((record) => {
    const { documentId, contentHash, chunks, details } = record
    const [key, id, hash] = [keyOf(documentId), escaped(documentId), escaped(contentHash)].map((value) =>
      parameters.add(value),
    )
    const json = parameters.add(JSON.stringify(withStrings(details, escaped)))
    return `(${key}::uuid, ${id}, ${hash}, ${parameters.add(chunks)}::integer, ${json}::jsonb, ${parameters.add(recordChecksum(record))})`
  })
  const columns = ['key', 'document_id', 'content_hash', 'chunks', 'details', 'checksum']
  return { text: upsert(table, columns, tuples), values: parameters.values }
}

function upsert(table: string, columns: readonly string[], tuples: readonly string[]): string {
  const updates = columns.filter((name) => name !== 'key').map((name) => `${name} = excluded.${name}`)
  return `INSERT INTO ${table} (${columns.join(', ')}) VALUES ${tuples.join(', ')}
    ON CONFLICT (key) DO UPDATE SET ${updates.join(', ')}`
}

/** How often a tsvector can say that a text holds a word. */
const MOST_POSITIONS = 255

/** Words, which are letters, digits and marks only, as PostgreSQL's text of a tsvector: a word has as many positions as it has occurrences. */
function tsvectorOf(words: readonly string[]): string {
  const counts = new Map<string, number>()
  for (const word of words) counts.set(word, Math.min((counts.get(word) ?? 0) + 1, MOST_POSITIONS))
  const positions = (count: number) => Array.from({ length: count }, (_, index) => index + 1).join(',')
  return [...counts].map(([word, count]) => `'${word}':${positions(count)}`).join(' ')
}

export function decodeRow(result: RowResult): { row: EncodedRow; checksum: string } {
  const metadata = withStrings(result.metadata, unescaped)
  if (!isJsonObject(metadata)) throw unreadable('metadata')
  const vector: unknown = JSON.parse(result.vector)
  if (!Array.isArray(vector)) throw unreadable('vector')
  const row = {
    id: unescaped(result.id),
    documentId: unescaped(result.document_id),
    chunk: result.chunk,
    text: unescaped(result.text),
    metadata,
    contentHash: unescaped(result.content_hash),
    memory: result.memory,
    vector: Float32Array.from(vector),
  }
  return { row, checksum: result.checksum }
}

export function storeRow(result: RowResult): StoreRow {
  const { row } = decodeRow(result)
  return { ...row, memory: decodeMemory(row.memory) }
}

export function decodeRecord(result: RecordResult): DocumentRecord {
  return {
    documentId: unescaped(result.document_id),
    contentHash: unescaped(result.content_hash),
    chunks: result.chunks,
    details: withStrings(result.details, unescaped),
  }
}

function unreadable(column: string): ClaraError {
  return new ClaraError(`A stored row has no readable "${column}".`, { hint: 'Verify the store.' })
}

import { randomBytes } from 'node:crypto'
import { rename, rm } from 'node:fs/promises'
import type { AsyncBuffer, FileMetaData } from 'hyparquet'
import { ClaraError } from '../errors.ts'
import { bytesOf, canonical, encodeMemory, isJsonObject, memoryFromParts, rowChecksum } from './codec.ts'
import type { DocumentRecord, JsonValue, Store, StoreDescription, StoredMemory, StoreRow } from './store.ts'
import { checkDescription, checkRecords, checkRows, isPlainObject } from './validation.ts'
import { unitVector } from './vector.ts'

/*
 * A store as one Parquet file, for copies, for moving between drivers, and for other programs. One row per stored row: `id`, `document_id`, `chunk`, `text`,
 * `metadata` (JSON), `content_hash`, the memory as `memory_dtype` (float32, float16 or int8), `memory_n`, `memory` (its tokens, row-major, little-endian) and
 * `memory_scales` (float32, one per token of int8 memory), `vector` (float32), `checksum`; and of a completely stored document, on each of its rows, its record:
 * `document_hash`, `document_chunks`, `document_details` (JSON). The file's own metadata hold the description. A complete document without rows is left out.
 */

const KEY = 'clara-store'
const VERSION = 1
/** Rows per group: what is in memory at a time. */
const GROUP = 256
/** A larger group or description is not ours, and is not read into memory. Bytes. */
const LARGEST_GROUP = 2 ** 30

const columns = [
  { name: 'id', type: 'STRING' },
  { name: 'document_id', type: 'STRING' },
  { name: 'chunk', type: 'INT32' },
  { name: 'text', type: 'STRING' },
  { name: 'metadata', type: 'STRING' },
  { name: 'content_hash', type: 'STRING' },
  { name: 'memory_dtype', type: 'STRING' },
  { name: 'memory_n', type: 'INT32' },
  { name: 'memory', type: 'BYTE_ARRAY', codec: 'UNCOMPRESSED' },
  { name: 'memory_scales', type: 'BYTE_ARRAY', codec: 'UNCOMPRESSED' },
  { name: 'vector', type: 'BYTE_ARRAY', codec: 'UNCOMPRESSED' },
  { name: 'checksum', type: 'STRING' },
  { name: 'document_hash', type: 'STRING', nullable: true },
  { name: 'document_chunks', type: 'INT32', nullable: true },
  { name: 'document_details', type: 'STRING', nullable: true },
] as const

/**
 * Writes a store into a Parquet file, as one moment left its rows. The file is there whole or not at all.
 * @returns How many rows it holds.
 * @throws ClaraError when the file cannot be written, or a row cannot be read.
 */
export async function exportStore(store: Store, path: string): Promise<number> {
  const { fileWriter, parquetWriteRows } = await import('hyparquet-writer')
  const records = new Map<string, DocumentRecord>()
  for await (const record of store.documents()) records.set(record.documentId, record)
  let count = 0
  async function* rows(): AsyncGenerator<Record<string, unknown>> {
    for await (const row of store.iterate()) {
      count++
      yield encoded(row, records.get(row.documentId))
    }
  }
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`
  try {
    await parquetWriteRows({
      writer: fileWriter(temporary),
      rows: rows(),
      columns: columns.map((column) => ({ ...column, statistics: false })),
      rowGroupSize: GROUP,
      kvMetadata: [{ key: KEY, value: JSON.stringify({ version: VERSION, description: store.description }) }],
    })
    await rename(temporary, path)
  } catch (error) {
    await rm(temporary, { force: true })
    throw explained(path, 'written', error)
  }
  return count
}

/**
 * What the store that was exported into a file was for: to make one for {@link importStore}.
 * @throws ClaraError when the file cannot be read, or is no export.
 */
export async function readExport(
  path: string,
): Promise<{ readonly description: StoreDescription; readonly rows: number }> {
  const { metadata, description } = await openExport(path)
  return { description, rows: Number(metadata.num_rows) }
}

/**
 * Adds all rows of an export to a store, and the records of documents. What is there already is left alone or replaced, as with `add`.
 *
 * @param vectorOf Makes the retrieval vectors anew, for a store that keeps others than the export's, or none.
 * @returns How many rows were read.
 * @throws ClaraError when the file is no export or damaged, or comes from a store for another model or with other retrieval vectors.
 */
export async function importStore(
  store: Store,
  path: string,
  vectorOf?: (memory: StoredMemory) => Float32Array,
): Promise<number> {
  const { file, metadata, description } = await openExport(path)
  checkFits(path, description, store.description, vectorOf !== undefined)
  const { parquetReadObjects } = await import('hyparquet')
  const records = new Map<string, DocumentRecord>()
  let read = 0
  for (const { num_rows, total_byte_size } of metadata.row_groups) {
    if (total_byte_size > LARGEST_GROUP) throw damaged(path, `a group of ${total_byte_size} bytes`)
    const rowEnd = read + Number(num_rows)
    let objects: Record<string, unknown>[]
    try {
      objects = await parquetReadObjects({
        file,
        metadata,
        rowStart: read,
        rowEnd,
        utf8: false,
        // not the default, which drops a byte-order mark at the beginning
        parsers: { stringFromBytes: (bytes: Uint8Array) => bytes && Buffer.from(bytes).toString('utf8') },
      })
    } catch (cause) {
      throw damaged(path, `rows ${read} to ${rowEnd} cannot be read`, cause)
    }
    const rows = objects.map((object, index) => decoded(path, read + index, object, description, records))
    const added = vectorOf ? rows.map((row) => ({ ...row, vector: vectorOf(row.memory) })) : rows
    await store.add(added, { fingerprint: description.fingerprint })
    read = rowEnd
  }
  if (read !== Number(metadata.num_rows)) throw damaged(path, `${read} of ${metadata.num_rows} rows`)
  const all = [...records.values()]
  for (let start = 0; start < all.length; start += 1_000) await store.putDocuments(all.slice(start, start + 1_000))
  return read
}

function encoded(row: StoreRow, record: DocumentRecord | undefined): Record<string, unknown> {
  const { memory } = row
  return {
    id: row.id,
    document_id: row.documentId,
    chunk: row.chunk,
    text: row.text,
    metadata: JSON.stringify(row.metadata),
    content_hash: row.contentHash,
    memory_dtype: memory.dtype,
    memory_n: memory.n,
    memory: bytesOf(memory.tokens),
    memory_scales: memory.dtype === 'int8' ? bytesOf(memory.scales) : new Uint8Array(),
    vector: bytesOf(row.vector),
    checksum: checksumOf(row),
    document_hash: record?.contentHash,
    document_chunks: record?.chunks,
    document_details: record && JSON.stringify(record.details),
  }
}

function decoded(
  path: string,
  index: number,
  object: Record<string, unknown>,
  description: StoreDescription,
  records: Map<string, DocumentRecord>,
): StoreRow {
  const wrong = (what: string, cause?: unknown) => damaged(path, `row ${index}: ${what}`, cause)
  const text = (column: string): string => {
    const value = object[column]
    if (typeof value !== 'string') throw wrong(`no text in column "${column}"`)
    return value
  }
  const number = (column: string): number => {
    const value = object[column]
    if (typeof value !== 'number') throw wrong(`no number in column "${column}"`)
    return value
  }
  const bytes = (column: string): Uint8Array => {
    const value = object[column]
    if (!(value instanceof Uint8Array)) throw wrong(`no bytes in column "${column}"`)
    return value
  }
  const json = (column: string): JsonValue => {
    try {
      return JSON.parse(text(column))
    } catch (cause) {
      throw wrong(`no JSON in column "${column}"`, cause)
    }
  }
  const metadata = json('metadata')
  if (!isJsonObject(metadata)) throw wrong('metadata that is no object')
  const { memoryWidth: width } = description
  const memory: StoredMemory | undefined = memoryFromParts(
    text('memory_dtype'),
    number('memory_n'),
    width,
    bytes('memory_scales'),
    bytes('memory'),
  )
  if (memory === undefined) throw wrong('memory of another size')
  const vector = bytes('vector')
  const row: StoreRow = {
    id: text('id'),
    documentId: text('document_id'),
    chunk: number('chunk'),
    text: text('text'),
    metadata,
    contentHash: text('content_hash'),
    memory,
    vector: new Float32Array(new Uint8Array(vector.subarray(0, vector.length - (vector.length % 4))).buffer),
  }
  checkRows([row], description)
  if (checksumOf(row) !== text('checksum')) throw wrong(`the checksum of row ${JSON.stringify(row.id)} differs`)
  if (typeof object.document_hash === 'string') {
    const contentHash = object.document_hash
    const record = {
      documentId: row.documentId,
      contentHash,
      chunks: number('document_chunks'),
      details: json('document_details'),
    }
    checkRecords([record])
    records.set(row.documentId, record)
  }
  return row
}

function checksumOf(row: StoreRow): string {
  return rowChecksum({ ...row, memory: encodeMemory(row.memory), vector: unitVector(row.vector) })
}

async function openExport(
  path: string,
): Promise<{ file: AsyncBuffer; metadata: FileMetaData; description: StoreDescription }> {
  const { asyncBufferFromFile, parquetMetadataAsync } = await import('hyparquet')
  let file: AsyncBuffer
  try {
    file = await asyncBufferFromFile(path)
  } catch (error) {
    throw explained(path, 'read', error)
  }
  let metadata: FileMetaData
  try {
    metadata = await parquetMetadataAsync(file)
  } catch (cause) {
    throw damaged(path, 'no readable Parquet footer', cause)
  }
  const value = metadata.key_value_metadata?.find(({ key }) => key === KEY)?.value
  const header = value === undefined ? undefined : parsed(value)
  if (!isPlainObject(header) || !isPlainObject(header.description)) {
    throw damaged(path, `no "${KEY}" among its metadata`)
  }
  if (header.version !== VERSION) {
    throw new ClaraError(`"${path}" is an export of another version.`, {
      expected: `version ${VERSION}`,
      received: String(header.version),
      hint: 'Install the newest version of this program.',
    })
  }
  const { fingerprint, memoryWidth, vectorWidth, details } = header.description
  const description = { fingerprint, memoryWidth, vectorWidth, ...(details === undefined ? {} : { details }) }
  checkDescription(description as StoreDescription)
  return { file, metadata, description: description as StoreDescription }
}

function checkFits(path: string, exported: StoreDescription, present: StoreDescription, areVectorsMade: boolean): void {
  if (exported.fingerprint !== present.fingerprint) {
    throw new ClaraError(`The store does not come from the model of the export "${path}".`, {
      expected: `model fingerprint ${JSON.stringify(present.fingerprint)}`,
      received: JSON.stringify(exported.fingerprint),
      hint: 'Import into a new store, and use it with the model that the export comes from.',
    })
  }
  const [theirs, ours] = [exported, present].map(({ memoryWidth, vectorWidth, details = null }) =>
    JSON.stringify(canonical({ memoryWidth, vectorWidth: areVectorsMade ? 0 : vectorWidth, details })),
  )
  if (theirs === ours) return
  throw new ClaraError(`The retrieval vectors of the export "${path}" are made otherwise than the store's.`, {
    hint: 'Import into a new store.',
  })
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

function damaged(path: string, received: string, cause?: unknown): ClaraError {
  return new ClaraError(`"${path}" is no whole export of a store.`, {
    expected: 'a Parquet file that this program wrote',
    received,
    hint: 'Export again, or use another copy.',
    cause,
  })
}

function explained(path: string, done: 'read' | 'written', error: unknown): unknown {
  if (error instanceof ClaraError || !(error instanceof Error && 'code' in error)) return error
  return new ClaraError(`"${path}" cannot be ${done}.`, {
    received: String(error.code),
    hint:
      error.code === 'ENOSPC'
        ? 'The disk is full: free some space.'
        : 'See that the folder is there and that you may use it.',
    cause: error,
  })
}

import type * as ArrowModule from 'apache-arrow'
import { ClaraError } from '../../errors.ts'
import { decodeMemory, type EncodedRow, encodeMemory, isJsonObject, recordChecksum, rowChecksum } from '../codec.ts'
import type { DocumentRecord, JsonValue, StoredMemory, StoreRow } from '../store.ts'
import { unitVector } from '../vector.ts'
import { wordsOf } from '../words.ts'
import { keyOf, searchableOf } from './filter.ts'

/* Rows as Arrow tables and back. Columns are typed arrays where they can be: four times as fast as objects. */

export type Arrow = typeof ArrowModule

/** Rows per record batch: a column's offsets have 32 bits, so that a batch holds at most 2 GiB of one. */
const BATCH = 512
const compressed = new Map([['lance-encoding:compression', 'zstd']])

/** Columns that make up a row; there are no vectors in a store that keeps none. */
const allColumns = [
  'id',
  'document_id',
  'chunk',
  'text',
  'metadata',
  'content_hash',
  'memory',
  'vector',
  'checksum',
] as const

/** Names of the columns that make up a row of a table, in its order. */
export function rowColumns(schema: ArrowModule.Schema): string[] {
  const present = new Set(schema.fields.map(({ name }) => String(name)))
  return allColumns.filter((name) => present.has(name))
}

export function rowsSchema(arrow: Arrow, vectorWidth: number): ArrowModule.Schema {
  const text = (name: string, metadata?: Map<string, string>) =>
    new arrow.Field(name, new arrow.Utf8(), false, metadata)
  return new arrow.Schema([
    text('key', compressed),
    text('document_key', compressed),
    text('id'),
    text('document_id'),
    new arrow.Field('chunk', new arrow.Int32(), false),
    text('text', compressed),
    text('words', compressed),
    text('metadata', compressed),
    new arrow.Field('facts', new arrow.List(text('item')), false),
    text('ordered', compressed),
    text('content_hash', compressed),
    new arrow.Field('memory', new arrow.Binary(), false),
    ...(vectorWidth === 0 ? [] : [new arrow.Field('vector', vectorType(arrow, vectorWidth), false)]),
    text('checksum', compressed),
  ])
}

function vectorType(arrow: Arrow, width: number): ArrowModule.FixedSizeList {
  return new arrow.FixedSizeList(width, new arrow.Field('item', new arrow.Float32(), true))
}

export function documentsSchema(arrow: Arrow): ArrowModule.Schema {
  const text = (name: string) => new arrow.Field(name, new arrow.Utf8(), false)
  const chunks = new arrow.Field('chunks', new arrow.Int32(), false)
  return new arrow.Schema([
    text('key'),
    text('document_id'),
    text('content_hash'),
    chunks,
    text('details'),
    text('checksum'),
  ])
}

/** Rows as one table, in batches. */
export function encodeRows(arrow: Arrow, schema: ArrowModule.Schema, rows: readonly StoreRow[]): ArrowModule.Table {
  const batches: ArrowModule.RecordBatch[] = []
  for (let start = 0; start < rows.length; start += BATCH) {
    const encoded = rows
      .slice(start, start + BATCH)
      .map((row): EncodedRow => ({ ...row, memory: encodeMemory(row.memory), vector: unitVector(row.vector) }))
    const searchable = encoded.map(({ metadata }) => searchableOf(metadata))
    const text = (values: string[]) => dataOf(arrow.vectorFromArray(values, new arrow.Utf8()))
    const facts = schema.fields.find(({ name }) => name === 'facts')?.type
    batches.push(
      batchOf(arrow, schema, encoded.length, [
        text(encoded.map(({ id }) => keyOf(id))),
        text(encoded.map(({ documentId }) => keyOf(documentId))),
        text(encoded.map(({ id }) => id)),
        text(encoded.map(({ documentId }) => documentId)),
        integers(
          arrow,
          encoded.map(({ chunk }) => chunk),
        ),
        text(encoded.map((row) => row.text)),
        // their order says nothing to BM25, and sorted they are a tenth smaller
        text(encoded.map((row) => [...wordsOf(row.text)].sort().join(' '))),
        text(encoded.map(({ metadata }) => JSON.stringify(metadata))),
        dataOf(
          arrow.vectorFromArray(
            searchable.map((row) => row.facts),
            facts,
          ),
        ),
        text(searchable.map(({ ordered }) => ordered)),
        text(encoded.map(({ contentHash }) => contentHash)),
        binary(
          arrow,
          encoded.map(({ memory }) => memory),
        ),
        ...vectors(
          arrow,
          encoded.map(({ vector }) => vector),
        ),
        text(encoded.map(rowChecksum)),
      ]),
    )
  }
  return new arrow.Table(schema, batches)
}

export function encodeDocuments(
  arrow: Arrow,
  schema: ArrowModule.Schema,
  records: readonly DocumentRecord[],
): ArrowModule.Table {
  const text = (values: string[]) => dataOf(arrow.vectorFromArray(values, new arrow.Utf8()))
  return new arrow.Table(schema, [
    batchOf(arrow, schema, records.length, [
      text(records.map(({ documentId }) => keyOf(documentId))),
      text(records.map(({ documentId }) => documentId)),
      text(records.map(({ contentHash }) => contentHash)),
      integers(
        arrow,
        records.map(({ chunks }) => chunks),
      ),
      text(records.map(({ details }) => JSON.stringify(details))),
      text(records.map(recordChecksum)),
    ]),
  ])
}

function batchOf(
  arrow: Arrow,
  schema: ArrowModule.Schema,
  length: number,
  children: ArrowModule.Data[],
): ArrowModule.RecordBatch {
  const type = new arrow.Struct(schema.fields)
  return new arrow.RecordBatch(schema, arrow.makeData({ type, length, nullCount: 0, children }))
}

function dataOf(vector: ArrowModule.Vector): ArrowModule.Data {
  const [data] = vector.data
  if (data === undefined) throw new RangeError('Arrow made a column without data.')
  return data
}

function integers(arrow: Arrow, values: readonly number[]): ArrowModule.Data {
  return arrow.makeData({ type: new arrow.Int32(), length: values.length, nullCount: 0, data: Int32Array.from(values) })
}

function binary(arrow: Arrow, values: readonly Uint8Array[]): ArrowModule.Data {
  const valueOffsets = new Int32Array(values.length + 1)
  for (const [index, value] of values.entries()) valueOffsets[index + 1] = (valueOffsets[index] ?? 0) + value.length
  const data = Buffer.concat(values)
  return arrow.makeData({ type: new arrow.Binary(), length: values.length, nullCount: 0, valueOffsets, data })
}

/** One column, or none where the store keeps no vectors. */
function vectors(arrow: Arrow, values: readonly Float32Array[]): ArrowModule.Data[] {
  const width = values[0]?.length ?? 0
  if (width === 0) return []
  const data = new Float32Array(values.length * width)
  for (const [index, value] of values.entries()) data.set(value, index * width)
  const child = arrow.makeData({ type: new arrow.Float32(), length: data.length, nullCount: 0, data })
  return [arrow.makeData({ type: vectorType(arrow, width), length: values.length, nullCount: 0, child })]
}

/** A row of a batch; its {@link rowColumns} must have been selected. */
export function decodeRow(batch: ArrowModule.RecordBatch, index: number): { row: EncodedRow; checksum: string } {
  const row = {
    id: textAt(batch, 'id', index),
    documentId: textAt(batch, 'document_id', index),
    chunk: numberAt(batch, 'chunk', index),
    text: textAt(batch, 'text', index),
    metadata: objectAt(batch, 'metadata', index),
    contentHash: textAt(batch, 'content_hash', index),
    memory: bytesAt(batch, 'memory', index),
    vector: vectorAt(batch, index),
  }
  return { row, checksum: textAt(batch, 'checksum', index) }
}

/** A whole row; its arrays are copies, since a batch's memory is freed with it. */
export function storeRow(row: EncodedRow): StoreRow {
  return { ...row, memory: decodeMemory(row.memory), vector: row.vector.slice() }
}

export function memoryAt(batch: ArrowModule.RecordBatch, index: number): StoredMemory {
  return decodeMemory(bytesAt(batch, 'memory', index))
}

export function decodeDocument(batch: ArrowModule.RecordBatch, index: number): DocumentRecord {
  return {
    documentId: textAt(batch, 'document_id', index),
    contentHash: textAt(batch, 'content_hash', index),
    chunks: numberAt(batch, 'chunks', index),
    details: jsonAt(batch, 'details', index),
  }
}

export function textAt(batch: ArrowModule.RecordBatch, column: string, index: number): string {
  return textColumn(batch, column)(index)
}

/** A column's texts by row: for many of them, since looking for the column takes longer than reading it. */
export function textColumn(batch: ArrowModule.RecordBatch, column: string): (index: number) => string {
  const bytesOf = binaryColumn(batch, column)
  return (index) => {
    const bytes = bytesOf(index)
    // Not through Arrow's own reading, which drops a byte-order mark at the beginning.
    return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('utf8')
  }
}

/** A column's bytes by row, where they lie in the batch. */
export function binaryColumn(batch: ArrowModule.RecordBatch, column: string): (index: number) => Uint8Array {
  const [data] = batch.getChild(column)?.data ?? []
  const offsets: unknown = data?.valueOffsets
  const values: unknown = data?.values
  return (index) => {
    const [start, end] = offsets instanceof Int32Array ? [offsets[index], offsets[index + 1]] : []
    if (start === undefined || end === undefined || !(values instanceof Uint8Array)) throw unreadable(column)
    return values.subarray(start, end)
  }
}

export function numberAt(batch: ArrowModule.RecordBatch, column: string, index: number): number {
  const value: unknown = batch.getChild(column)?.get(index)
  if (typeof value !== 'number') throw unreadable(column)
  return value
}

function bytesAt(batch: ArrowModule.RecordBatch, column: string, index: number): Uint8Array {
  const value: unknown = batch.getChild(column)?.get(index)
  if (!(value instanceof Uint8Array)) throw unreadable(column)
  return value
}

function vectorAt(batch: ArrowModule.RecordBatch, index: number): Float32Array {
  const column = batch.getChild('vector')
  if (column === null) return new Float32Array()
  const value: unknown = column.get(index)?.toArray()
  if (!(value instanceof Float32Array)) throw unreadable('vector')
  return value
}

function jsonAt(batch: ArrowModule.RecordBatch, column: string, index: number): JsonValue {
  try {
    return JSON.parse(textAt(batch, column, index))
  } catch (cause) {
    throw unreadable(column, cause)
  }
}

function objectAt(batch: ArrowModule.RecordBatch, column: string, index: number): StoreRow['metadata'] {
  const value = jsonAt(batch, column, index)
  if (!isJsonObject(value)) throw unreadable(column)
  return value
}

function unreadable(column: string, cause?: unknown): ClaraError {
  return new ClaraError(`A stored row has no readable "${column}".`, { hint: 'Verify the store.', cause })
}

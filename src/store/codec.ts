import { createHash } from 'node:crypto'
import { ClaraError } from '../errors.ts'
import type { DocumentRecord, JsonValue, StoredMemory, StoreRow } from './store.ts'

/*
 * Memory as one piece of bytes, as drivers keep it: 12 bytes of header (format, element type, two of zero, n, width; little-endian), then the scales of
 * int8 memory as float32, then the tokens. And the checksums of rows and records.
 */

const FORMAT = 1
const HEADER = 12
const dtypes = ['float32', 'float16', 'int8'] as const
const bytesPerNumber = { float32: 4, float16: 2, int8: 1 } as const

/** The memory as bytes. */
export function encodeMemory(memory: StoredMemory): Uint8Array {
  const { dtype, n, width, tokens } = memory
  const scales = dtype === 'int8' ? bytesOf(memory.scales) : new Uint8Array()
  const bytes = new Uint8Array(HEADER + scales.length + tokens.byteLength)
  const view = new DataView(bytes.buffer)
  view.setUint8(0, FORMAT)
  view.setUint8(1, dtypes.indexOf(dtype))
  view.setUint32(4, n, true)
  view.setUint32(8, width, true)
  bytes.set(scales, HEADER)
  bytes.set(bytesOf(tokens), HEADER + scales.length)
  return bytes
}

/**
 * The memory that {@link encodeMemory} wrote, in arrays of its own.
 * @throws ClaraError when the bytes are not such a memory.
 */
export function decodeMemory(bytes: Uint8Array): StoredMemory {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const dtype = bytes.length < HEADER || view.getUint8(0) !== FORMAT ? undefined : dtypes[view.getUint8(1)]
  if (dtype === undefined) throw damaged(`${bytes.length} bytes without its header`)
  const n = view.getUint32(4, true)
  const width = view.getUint32(8, true)
  const scaleBytes = dtype === 'int8' ? n * 4 : 0
  const [scales, tokens] = [bytes.subarray(HEADER, HEADER + scaleBytes), bytes.subarray(HEADER + scaleBytes)]
  const memory = memoryFromParts(dtype, n, width, scales, tokens)
  if (memory === undefined) throw damaged(`${bytes.length} bytes for ${n} tokens of ${width} in ${dtype}`)
  return memory
}

/** Tokens of int8 memory where they lie among the bytes that {@link encodeMemory} wrote; undefined for memory of another kind, or none. */
export function int8TokensOf(
  bytes: Uint8Array,
): { readonly tokens: Uint8Array; readonly n: number; readonly width: number } | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  if (bytes.length < HEADER || view.getUint8(0) !== FORMAT || dtypes[view.getUint8(1)] !== 'int8') return undefined
  const n = view.getUint32(4, true)
  const width = view.getUint32(8, true)
  const tokens = bytes.subarray(HEADER + 4 * n)
  return tokens.length === n * width ? { tokens, n, width } : undefined
}

/** Memory from its little-endian bytes, in arrays of its own; undefined when they are not as many as they should be, or the type is unknown. */
export function memoryFromParts(
  dtype: string,
  n: number,
  width: number,
  scales: Uint8Array,
  tokens: Uint8Array,
): StoredMemory | undefined {
  const known = dtypes.find((name) => name === dtype)
  if (known === undefined || tokens.length !== n * width * bytesPerNumber[known]) return undefined
  if (scales.length !== (known === 'int8' ? n * 4 : 0)) return undefined
  // copied: database drivers hand out views that are not aligned and may be reused
  const { buffer } = new Uint8Array(tokens)
  if (known === 'int8') {
    return {
      dtype: known,
      tokens: new Int8Array(buffer),
      scales: new Float32Array(new Uint8Array(scales).buffer),
      n,
      width,
    }
  }
  if (known === 'float16') return { dtype: known, tokens: new Uint16Array(buffer), n, width }
  return { dtype: known, tokens: new Float32Array(buffer), n, width }
}

function damaged(received: string): ClaraError {
  return new ClaraError('A stored memory is damaged.', {
    received,
    hint: 'Verify the store to see what else is, remove the documents it names and add them again.',
  })
}

/** Little-endian bytes of a typed array, shared with it. */
export function bytesOf(array: ArrayBufferView): Uint8Array {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
}

/** A row as it is kept: what its checksum covers. `vector` has length 1. */
export interface EncodedRow extends Omit<StoreRow, 'memory'> {
  readonly memory: Uint8Array
}

/** 128 bits of SHA-256 over all of a row, as 32 hexadecimal digits. */
export function rowChecksum(row: EncodedRow): string {
  const { id, documentId, chunk, text, metadata, contentHash, memory, vector } = row
  return digest(
    [id, documentId, chunk, text, canonical(metadata), contentHash].map((part) => JSON.stringify(part)).join('\n'),
    memory,
    bytesOf(vector),
  )
}

/** 128 bits of SHA-256 over all of a document's record, as 32 hexadecimal digits. */
export function recordChecksum({ documentId, contentHash, chunks, details }: DocumentRecord): string {
  return digest(JSON.stringify([documentId, contentHash, chunks, canonical(details)]))
}

/** 128 bits of SHA-256 over texts and bytes, as 32 hexadecimal digits. */
export function digest(text: string, ...pieces: readonly Uint8Array[]): string {
  const hash = createHash('sha256').update(text)
  for (const piece of pieces) hash.update(`\n${piece.length}\n`).update(piece)
  return hash.digest('hex').slice(0, 32)
}

/** The value with every object's keys in order, so that equal values have equal JSON: databases reorder keys. */
export function canonical(value: JsonValue): JsonValue {
  if (typeof value !== 'object' || value === null) return value
  if (isList(value)) return value.map(canonical)
  const entries = Object.entries(value).map(([key, item]) => [key, canonical(item)] as const)
  return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)))
}

/** Whether it is an object, and no list. */
export function isJsonObject(value: JsonValue): value is { readonly [key: string]: JsonValue } {
  return typeof value === 'object' && value !== null && !isList(value)
}

function isList(value: object): value is readonly JsonValue[] {
  return Array.isArray(value)
}

import { ClaraError } from '../errors.ts'
import type { DocumentRecord, StoreDescription, StoredMemory, StoreRow } from './store.ts'

/* The checks that all drivers share, so that a bad row is refused alike whatever the database would have made of it. */

/** @throws ClaraError if the description has no fingerprint or a width below 1. */
export function checkDescription(description: StoreDescription): void {
  if (typeof description.fingerprint !== 'string' || description.fingerprint === '') {
    throw new ClaraError('The store has no model fingerprint.', { expected: 'a non-empty string' })
  }
  checkCount('memoryWidth of the store', description.memoryWidth)
  const { vectorWidth } = description
  if (vectorWidth !== 0) checkCount('vectorWidth of the store', vectorWidth)
  if (description.details !== undefined) checkJson('the description of the store', 'details', description.details)
}

/**
 * Whether a store that is there is the one that was asked for. What the caller keeps in `details` may differ: what is stored holds.
 *
 * @param name The store, as in "The store \"kb\"".
 * @throws ClaraError that names both fingerprints, or both widths.
 */
export function checkSameStore(name: string, stored: StoreDescription, asked: StoreDescription): void {
  checkDescription(asked)
  if (stored.fingerprint !== asked.fingerprint) {
    throw new ClaraError(`${name} was written by another model.`, {
      expected: `model fingerprint ${JSON.stringify(stored.fingerprint)}`,
      received: JSON.stringify(asked.fingerprint),
      hint: 'Load the model that wrote the store, or compress the documents again into a new store.',
    })
  }
  for (const width of ['memoryWidth', 'vectorWidth'] as const) {
    if (stored[width] === asked[width]) continue
    throw new ClaraError(`${name} has another ${width}.`, {
      expected: String(stored[width]),
      received: String(asked[width]),
      hint: 'Open it with the settings that it was made with, or compress the documents again into a new store.',
    })
  }
}

/**
 * @param what What carries the fingerprint, as the subject of the error, such as "The query".
 * @throws ClaraError that names both fingerprints if they differ.
 */
export function checkFingerprint(what: string, fingerprint: string, description: StoreDescription): void {
  if (fingerprint === description.fingerprint) return
  throw new ClaraError(`${what} does not come from the model that wrote this store.`, {
    expected: `model fingerprint ${JSON.stringify(description.fingerprint)}`,
    received: `${JSON.stringify(fingerprint)}`,
    hint: 'Load the model that wrote the store, or compress the documents again into a new store.',
  })
}

/** @throws ClaraError if any row is malformed, or if one id comes twice with different content hashes. */
export function checkRows(rows: readonly StoreRow[], description: StoreDescription): void {
  const hashes = new Map<string, string>()
  for (const row of rows) {
    checkRow(row, description)
    const earlier = hashes.get(row.id)
    if (earlier !== undefined && earlier !== row.contentHash) {
      throw new ClaraError(`Row ${JSON.stringify(row.id)} comes twice in one call, with different content.`, {
        expected: 'each id once, or with the same content hash',
        received: `hashes ${JSON.stringify(earlier)} and ${JSON.stringify(row.contentHash)}`,
      })
    }
    hashes.set(row.id, row.contentHash)
  }
}

function checkRow(row: StoreRow, description: StoreDescription): void {
  for (const field of ['id', 'documentId', 'contentHash'] as const) checkName(`A row's ${field}`, row[field])
  const name = `row ${JSON.stringify(row.id)}`
  if (typeof row.text !== 'string') {
    throw new ClaraError(`The text of ${name} is not a string.`, { received: typeof row.text })
  }
  checkWellFormed(`The text of ${name}`, row.text)
  if (!isOrdinal(row.chunk)) {
    throw new ClaraError(`The chunk number of ${name} is not valid.`, {
      expected: 'an integer from 0 to 2147483647',
      received: String(row.chunk),
    })
  }
  checkMetadata(name, row.metadata)
  checkMemory(name, row.memory, description.memoryWidth)
  checkVector(`The vector of ${name}`, row.vector, description)
}

/** @throws ClaraError if any record is malformed. */
export function checkRecords(records: readonly DocumentRecord[]): void {
  for (const record of records) {
    for (const field of ['documentId', 'contentHash'] as const) checkName(`A document record's ${field}`, record[field])
    const name = `the record of document ${JSON.stringify(record.documentId)}`
    if (!isOrdinal(record.chunks)) {
      throw new ClaraError(`The number of chunks in ${name} is not valid.`, {
        expected: 'an integer from 0 to 2147483647',
        received: String(record.chunks),
      })
    }
    checkJson(name, 'details', record.details)
  }
}

/** Databases keep it in 32 bits. */
function isOrdinal(value: number): boolean {
  return Number.isInteger(value) && value >= 0 && value <= 2147483647
}

function checkName(what: string, value: unknown): void {
  if (typeof value !== 'string' || value === '') {
    throw new ClaraError(`${what} is missing.`, {
      expected: 'a non-empty string',
      received: String(JSON.stringify(value)),
    })
  }
  checkWellFormed(what, value)
}

function checkWellFormed(what: string, value: string): void {
  if (!isWellFormed(value)) {
    throw new ClaraError(`${what} is not well-formed Unicode: it holds half of a surrogate pair.`, {
      received: JSON.stringify(value.slice(0, 100)),
      hint: 'Replace such halves first, with text.toWellFormed().',
    })
  }
}

function isWellFormed(value: string): boolean {
  return !/\p{Surrogate}/u.test(value)
}

/** Only what JSON carries unchanged: a value that a database would drop or alter is refused before it is lost. */
function checkMetadata(name: string, metadata: unknown): void {
  if (!isPlainObject(metadata)) {
    throw new ClaraError(`The metadata of ${name} is not an object.`, { expected: 'a plain object of JSON values' })
  }
  checkJson(name, 'metadata', metadata)
}

function checkJson(name: string, field: string, value: unknown): void {
  const path = findNonJson(value, field, 0)
  if (path !== undefined) {
    throw new ClaraError(`In ${name}, ${path} is not a JSON value.`, {
      expected: 'well-formed strings, finite numbers, booleans, null, lists and plain objects, at most 32 deep',
    })
  }
}

function findNonJson(value: unknown, path: string, depth: number): string | undefined {
  if (value === null || typeof value === 'boolean') return undefined
  if (typeof value === 'string') return isWellFormed(value) ? undefined : path
  if (typeof value === 'number') return Number.isFinite(value) ? undefined : path
  const isList = Array.isArray(value)
  if (depth > 32 || !(isList || isPlainObject(value))) return path
  for (const [key, item] of Object.entries(value)) {
    if (!isWellFormed(key)) return path
    const found = findNonJson(item, isList ? `${path}[${key}]` : `${path}.${key}`, depth + 1)
    if (found !== undefined) return found
  }
  return undefined
}

/** Whether it is an object literal's value, and no list, date or the like. */
export function isPlainObject(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null) return false
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === Object.prototype || prototype === null
}

const arrayTypes = { float32: Float32Array, float16: Uint16Array, int8: Int8Array } as const

/** @throws ClaraError unless it is memory of this width. */
export function checkMemory(name: string, memory: StoredMemory, width: number): void {
  checkCount(`number of memory tokens of ${name}`, memory.n)
  if (memory.width !== width) {
    throw new ClaraError(`The memory tokens of ${name} have the wrong width.`, {
      expected: String(width),
      received: String(memory.width),
    })
  }
  const expectedType = Object.hasOwn(arrayTypes, memory.dtype) ? arrayTypes[memory.dtype] : undefined
  if (expectedType === undefined || !(memory.tokens instanceof expectedType)) {
    throw new ClaraError(`The memory of ${name} has an element type that does not fit its array.`, {
      expected: 'dtype "float32" with a Float32Array, "float16" with a Uint16Array, or "int8" with an Int8Array',
    })
  }
  checkLength(`memory of ${name}`, memory.tokens, memory.n * width, `${memory.n} tokens of ${width}`)
  if (memory.dtype === 'float32') {
    checkFinite(`The memory of ${name}`, memory.tokens)
    return
  }
  if (memory.dtype === 'float16') {
    const index = memory.tokens.findIndex((half) => (half & 0x7c00) === 0x7c00)
    if (index < 0) return
    throw new ClaraError(`The memory of ${name} holds a half that is not finite.`, { received: `position ${index}` })
  }
  if (!(memory.scales instanceof Float32Array)) {
    throw new ClaraError(`The int8 memory of ${name} has no scales.`, {
      expected: 'a Float32Array, one scale per token',
    })
  }
  checkLength(`scales of ${name}`, memory.scales, memory.n, 'one per token')
  checkFinite(`The scales of ${name}`, memory.scales)
  const negative = memory.scales.findIndex((scale) => scale < 0)
  if (negative >= 0) {
    throw new ClaraError(`The scale of token ${negative} of ${name} is negative.`, {
      received: String(memory.scales[negative]),
    })
  }
}

/** @throws ClaraError if the vector has another length than the store's, a number that is not finite, or only zeros. */
export function checkVector(what: string, vector: Float32Array, description: StoreDescription): void {
  if (!(vector instanceof Float32Array) || vector.length !== description.vectorWidth) {
    throw new ClaraError(`${what} has the wrong length.`, {
      expected: `a Float32Array of ${description.vectorWidth} numbers`,
      received: vector instanceof Float32Array ? `${vector.length} numbers` : typeof vector,
    })
  }
  checkFinite(what, vector)
  if (vector.length > 0 && vector.every((value) => value === 0)) {
    throw new ClaraError(`${what} is all zeros.`, { expected: 'a direction, since vectors are compared by cosine' })
  }
}

/** @throws ClaraError unless the limit is a positive integer. */
export function checkLimit(limit: number): void {
  checkCount('limit of the search', limit)
}

function checkCount(what: string, value: number): void {
  if (Number.isSafeInteger(value) && value >= 1) return
  throw new ClaraError(`The ${what} is not valid.`, { expected: 'an integer from 1', received: String(value) })
}

function checkLength(what: string, array: { readonly length: number }, expected: number, reason: string): void {
  if (array.length === expected) return
  throw new ClaraError(`The ${what} has the wrong length.`, {
    expected: `${expected} numbers (${reason})`,
    received: String(array.length),
  })
}

function checkFinite(what: string, values: Float32Array): void {
  const index = values.findIndex((value) => !Number.isFinite(value))
  if (index < 0) return
  throw new ClaraError(`${what} holds a number that is not finite.`, {
    received: `${values[index]} at position ${index}`,
  })
}

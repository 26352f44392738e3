/** The head of a GGUF file: counts, key-value metadata and tensor descriptions, read window by window and checked as hostile input. */
import { ClaraError } from '../errors.ts'
import type { PositionedFile } from './file.ts'

const windowBytes = 1 << 20
const mostTensors = 1 << 20
const mostKeys = 1 << 16
const longestString = 16 << 20
const longestArray = 1 << 24
const deepestArray = 4
const largestHeader = 128 << 20

/** A tensor's description as it stands in the file. */
export interface GgufTensorRecord {
  readonly name: string
  readonly type: number
  /** Fastest-varying dimension first, as the file has it. */
  readonly dims: readonly number[]
  /** From the start of the data section. */
  readonly offset: number
}

export interface GgufHeader {
  readonly version: number
  readonly metadata: ReadonlyMap<string, unknown>
  readonly tensors: readonly GgufTensorRecord[]
  /** First byte after the head, before padding. */
  readonly end: number
}

/** Bytes of the fixed-size value types, by number; 8 is a string and 9 an array. */
const fixedBytes: Readonly<Record<number, number>> = {
  0: 1,
  1: 1,
  2: 2,
  3: 2,
  4: 4,
  5: 4,
  6: 4,
  7: 1,
  10: 8,
  11: 8,
  12: 8,
}

/**
 * Reads the head of a GGUF file, versions 2 and 3.
 *
 * Integers of 64 bits become numbers where they are exact and bigint otherwise.
 *
 * @throws ClaraError when the file is not a GGUF, is of another version or byte order, or its counts, lengths or types cannot be true.
 */
export async function readGgufHeader(file: PositionedFile): Promise<GgufHeader> {
  const { path } = file
  if (file.size < 4 || String.fromCharCode(...(await file.read(0, 4))) !== 'GGUF') {
    throw new ClaraError(`"${path}" is not a GGUF file.`, {
      expected: 'the four letters GGUF at its start',
      hint: 'Check the path or download the file again.',
    })
  }
  const cursor = createCursor(file, 4)
  const version = await cursor.uint32()
  if (version !== 2 && version !== 3) {
    const swapped = version === 0x02000000 || version === 0x03000000
    throw new ClaraError(`"${path}" is a GGUF of a kind that cannot be read.`, {
      expected: 'version 2 or 3, little-endian',
      received: swapped ? 'big-endian numbers' : `version ${version}`,
      hint: 'Convert the model again with a current converter.',
    })
  }
  const tensorCount = await cursor.count('number of tensors', mostTensors, 24)
  const keyCount = await cursor.count('number of metadata keys', mostKeys, 13)
  const metadata = new Map<string, unknown>()
  for (let i = 0; i < keyCount; i++) {
    const key = await cursor.string('metadata key')
    if (metadata.has(key)) throw damaged(path, `metadata key "${key}" stands there twice`)
    metadata.set(key, await readValue(cursor, await cursor.uint32(), key, 0))
  }
  const tensors: GgufTensorRecord[] = []
  for (let i = 0; i < tensorCount; i++) {
    const name = await cursor.string('tensor name')
    const rank = await cursor.uint32()
    if (rank > 4) throw damaged(path, `tensor "${name}" claims ${rank} dimensions, at most 4 exist`)
    const dims: number[] = []
    for (let axis = 0; axis < rank; axis++) dims.push(await cursor.exactUint64(`dimension ${axis} of tensor "${name}"`))
    const type = await cursor.uint32()
    tensors.push({ name, type, dims, offset: await cursor.exactUint64(`offset of tensor "${name}"`) })
  }
  return { version, metadata, tensors, end: cursor.position() }
}

/** An error about a file whose head contradicts itself or the file's size. */
export function damaged(path: string, problem: string): ClaraError {
  return new ClaraError(`"${path}" is damaged: ${problem}.`, { hint: 'Download or copy it again.' })
}

type Cursor = ReturnType<typeof createCursor>

function createCursor(file: PositionedFile, from: number) {
  const { path } = file
  let windowStart = from
  let window = new Uint8Array(0)
  let view = new DataView(window.buffer)
  let at = 0
  const text = new TextDecoder('utf-8')

  /** Makes `length` bytes available at `at`; callers skip the wait when they already are. */
  async function fill(length: number): Promise<void> {
    const start = windowStart + at
    if (start + length > file.size) throw damaged(path, `it ends inside its head, at byte ${file.size}`)
    if (start + length > largestHeader) throw damaged(path, `its head claims more than ${largestHeader} bytes`)
    window = await file.read(start, Math.min(Math.max(length, windowBytes), file.size - start))
    view = new DataView(window.buffer)
    windowStart = start
    at = 0
  }
  function has(length: number): boolean {
    return at + length <= window.length
  }
  async function uint32(): Promise<number> {
    if (!has(4)) await fill(4)
    at += 4
    return view.getUint32(at - 4, true)
  }
  async function fixed(type: number): Promise<unknown> {
    const length = fixedBytes[type] as number
    if (!has(length)) await fill(length)
    at += length
    return fixedValue(view, at - length, type)
  }
  async function exactUint64(what: string): Promise<number> {
    const value = await fixed(10)
    if (typeof value !== 'number') throw damaged(path, `${what} is ${value}`)
    return value
  }
  /** A count whose items take at least `leastBytes` each, so that it is bounded by what is left of the file. */
  async function count(what: string, most: number, leastBytes: number): Promise<number> {
    const value = await exactUint64(what)
    if (value > most || value * leastBytes > file.size - windowStart - at) {
      throw damaged(path, `its ${what} is ${value}, more than the file can hold or than the limit of ${most}`)
    }
    return value
  }
  async function string(what: string): Promise<string> {
    const length = await count(`length of a ${what}`, longestString, 1)
    if (!has(length)) await fill(length)
    at += length
    return text.decode(window.subarray(at - length, at))
  }
  return { path, uint32, fixed, exactUint64, count, string, position: () => windowStart + at }
}

function fixedValue(view: DataView, at: number, type: number): unknown {
  switch (type) {
    case 0:
      return view.getUint8(at)
    case 1:
      return view.getInt8(at)
    case 2:
      return view.getUint16(at, true)
    case 3:
      return view.getInt16(at, true)
    case 4:
      return view.getUint32(at, true)
    case 5:
      return view.getInt32(at, true)
    case 6:
      return view.getFloat32(at, true)
    case 7:
      return view.getUint8(at) !== 0
    case 12:
      return view.getFloat64(at, true)
    default: {
      const value = type === 11 ? view.getBigInt64(at, true) : view.getBigUint64(at, true)
      const number = Number(value)
      return Number.isSafeInteger(number) ? number : value
    }
  }
}

async function readValue(cursor: Cursor, type: number, key: string, depth: number): Promise<unknown> {
  if (fixedBytes[type] !== undefined) return cursor.fixed(type)
  if (type === 8) return cursor.string(`value of "${key}"`)
  if (type !== 9) throw damaged(cursor.path, `metadata key "${key}" has the unknown value type ${type}`)
  if (depth >= deepestArray)
    throw damaged(cursor.path, `metadata key "${key}" nests arrays deeper than ${deepestArray}`)
  const elementType = await cursor.uint32()
  const length = await cursor.count(
    `length of array "${key}"`,
    longestArray,
    fixedBytes[elementType] ?? (elementType === 8 ? 8 : 12),
  )
  const values: unknown[] = []
  for (let i = 0; i < length; i++) values.push(await readValue(cursor, elementType, key, depth + 1))
  return values
}

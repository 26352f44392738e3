/**
 * As much of the zip format as PyTorch's files need: the central directory (zip64 included) and entries read in place. Names are only
 * looked up, never used as paths.
 */
import { inflateRaw } from 'node:zlib'
import { ClaraError } from '../errors.ts'
import type { PositionedFile } from './file.ts'

const endSignature = 0x06054b50
const endBytes = 22
const longestComment = 0xffff
const zip64LocatorSignature = 0x07064b50
const zip64EndSignature = 0x06064b50
const entrySignature = 0x02014b50
const localSignature = 0x04034b50
const largestDirectory = 64 << 20
/** A compressed entry must be unpacked in memory; a stored one is read in place and has no limit. */
const largestCompressed = 64 << 20

/** One file inside the archive. */
export interface ZipEntry {
  readonly name: string
  /** Uncompressed bytes. */
  readonly size: number
  readonly compressedSize: number
  readonly method: number
  readonly localOffset: number
}

/**
 * The entries of a zip file by name.
 *
 * @throws ClaraError when it is not a zip file, is truncated, encrypted or contradicts itself.
 */
export async function readZipDirectory(file: PositionedFile): Promise<ReadonlyMap<string, ZipEntry>> {
  const { start, bytes, count } = await findDirectory(file)
  if (bytes > largestDirectory || start + bytes > file.size)
    throw damagedZip(file, `its directory claims ${bytes} bytes at ${start}`)
  const directory = await file.read(start, bytes)
  const view = new DataView(directory.buffer)
  const entries = new Map<string, ZipEntry>()
  const text = new TextDecoder()
  let at = 0
  for (let i = 0; i < count; i++) {
    if (at + 46 > bytes || view.getUint32(at, true) !== entrySignature)
      throw damagedZip(file, `entry ${i} of its directory is broken`)
    const [nameLength, extraLength, commentLength] = [
      view.getUint16(at + 28, true),
      view.getUint16(at + 30, true),
      view.getUint16(at + 32, true),
    ]
    const end = at + 46 + nameLength + extraLength + commentLength
    if (end > bytes) throw damagedZip(file, `entry ${i} reaches beyond its directory`)
    const name = text.decode(directory.subarray(at + 46, at + 46 + nameLength))
    if ((view.getUint16(at + 8, true) & 1) !== 0) throw damagedZip(file, `entry "${name}" is encrypted`)
    if (entries.has(name)) throw damagedZip(file, `entry "${name}" stands there twice`)
    const extraStart = at + 46 + nameLength
    const sizes = widenedSizes(file, view, at, extraStart, extraStart + extraLength, name)
    entries.set(name, { name, method: view.getUint16(at + 10, true), ...sizes })
    at = end
  }
  return entries
}

/**
 * Where a stored entry's bytes start in the file.
 *
 * @throws ClaraError when the entry is compressed or does not lie inside the file.
 */
export async function storedOffset(file: PositionedFile, entry: ZipEntry): Promise<number> {
  if (entry.method !== 0 || entry.size !== entry.compressedSize) {
    throw new ClaraError(`Entry "${entry.name}" of "${file.path}" is compressed.`, {
      expected: 'stored entries, as PyTorch writes them',
      hint: 'Save the checkpoint again with torch.save.',
    })
  }
  return dataOffset(file, entry)
}

/**
 * A small entry's content, unpacked when it is compressed.
 *
 * @param limit Most bytes that it may have.
 */
export async function readZipEntry(file: PositionedFile, entry: ZipEntry, limit: number): Promise<Uint8Array> {
  const most = entry.method === 0 ? limit : Math.min(limit, largestCompressed)
  if (entry.size > most) {
    throw new ClaraError(`Entry "${entry.name}" of "${file.path}" is too large.`, {
      expected: `at most ${most} bytes`,
      received: `${entry.size}`,
    })
  }
  if (entry.method === 0) return file.read(await storedOffset(file, entry), entry.size)
  if (entry.method !== 8)
    throw damagedZip(file, `entry "${entry.name}" is packed by the unknown method ${entry.method}`)
  const packed = await file.read(await dataOffset(file, entry), entry.compressedSize)
  const content = await new Promise<Uint8Array>((resolve, reject) => {
    // One byte more than promised is enough to see that the promise was a lie; zero would mean no limit.
    inflateRaw(packed, { maxOutputLength: entry.size + 1 }, (error, result) => {
      if (error === null) resolve(result)
      else reject(damagedZip(file, `entry "${entry.name}" cannot be unpacked (${error.message})`))
    })
  })
  if (content.length !== entry.size)
    throw damagedZip(file, `entry "${entry.name}" unpacks to ${content.length} bytes instead of ${entry.size}`)
  return content
}

/** The local header repeats the name with extra fields of its own length, so only it knows where the data starts. */
async function dataOffset(file: PositionedFile, entry: ZipEntry): Promise<number> {
  if (entry.localOffset + 30 > file.size) throw damagedZip(file, `entry "${entry.name}" lies beyond its end`)
  const header = await file.read(entry.localOffset, 30)
  const view = new DataView(header.buffer)
  if (view.getUint32(0, true) !== localSignature)
    throw damagedZip(file, `entry "${entry.name}" is not where the directory says`)
  const start = entry.localOffset + 30 + view.getUint16(26, true) + view.getUint16(28, true)
  if (start + entry.compressedSize > file.size) throw damagedZip(file, `entry "${entry.name}" reaches beyond its end`)
  return start
}

interface Directory {
  readonly start: number
  readonly bytes: number
  readonly count: number
}

async function findDirectory(file: PositionedFile): Promise<Directory> {
  const tailBytes = Math.min(file.size, endBytes + longestComment)
  const tail = await file.read(file.size - tailBytes, tailBytes)
  const view = new DataView(tail.buffer)
  for (let at = tailBytes - endBytes; at >= 0; at--) {
    if (view.getUint32(at, true) !== endSignature || at + endBytes + view.getUint16(at + 20, true) !== tailBytes)
      continue
    const directory = {
      count: view.getUint16(at + 10, true),
      bytes: view.getUint32(at + 12, true),
      start: view.getUint32(at + 16, true),
    }
    const isZip64 = directory.count === 0xffff || directory.bytes === 0xffffffff || directory.start === 0xffffffff
    const hasLocator = at >= 20 && view.getUint32(at - 20, true) === zip64LocatorSignature
    return isZip64 && hasLocator ? readZip64End(file, exact(file, view.getBigUint64(at - 12, true))) : directory
  }
  throw new ClaraError(`"${file.path}" is not a zip file, or its end is missing.`, {
    expected: 'a checkpoint in the zip format of torch.save',
    hint: 'Download it again; a file older than PyTorch 1.6 must be saved again with a current version.',
  })
}

async function readZip64End(file: PositionedFile, offset: number): Promise<Directory> {
  if (offset + 56 > file.size) throw damagedZip(file, 'its zip64 end lies beyond its end')
  const view = new DataView((await file.read(offset, 56)).buffer)
  if (view.getUint32(0, true) !== zip64EndSignature) throw damagedZip(file, 'its zip64 end is not where it should be')
  const [count, bytes, start] = [32, 40, 48].map((at) => exact(file, view.getBigUint64(at, true)))
  return { count: count ?? 0, bytes: bytes ?? 0, start: start ?? 0 }
}

/** Sizes and offset of a directory entry; a field of all ones stands in the zip64 extra field (id 1), in this order. */
function widenedSizes(
  file: PositionedFile,
  view: DataView,
  at: number,
  extraStart: number,
  extraEnd: number,
  name: string,
) {
  const narrow = {
    size: view.getUint32(at + 24, true),
    compressedSize: view.getUint32(at + 20, true),
    localOffset: view.getUint32(at + 42, true),
  }
  let field = extraStart
  let fieldEnd = extraStart
  while (fieldEnd + 4 <= extraEnd) {
    field = fieldEnd + 4
    fieldEnd = field + view.getUint16(field - 2, true)
    if (fieldEnd > extraEnd) throw damagedZip(file, `entry "${name}" has a broken extra field`)
    if (view.getUint16(field - 4, true) === 1) break
    field = fieldEnd
  }
  function widen(value: number): number {
    if (value !== 0xffffffff) return value
    if (field + 8 > fieldEnd) throw damagedZip(file, `entry "${name}" lacks its zip64 sizes`)
    field += 8
    return exact(file, view.getBigUint64(field - 8, true))
  }
  return {
    size: widen(narrow.size),
    compressedSize: widen(narrow.compressedSize),
    localOffset: widen(narrow.localOffset),
  }
}

function exact(file: PositionedFile, value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw damagedZip(file, `it claims ${value} bytes`)
  return Number(value)
}

function damagedZip(file: PositionedFile, problem: string): ClaraError {
  return new ClaraError(`"${file.path}" is damaged: ${problem}.`, { hint: 'Download or copy it again.' })
}

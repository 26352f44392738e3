/** Zip files as PyTorch writes them: stored entries whose data is aligned, with checksums and sizes behind the data. */
import { crc32 } from 'node:zlib'
import { ClaraError } from '../errors.ts'

/** A file to put into an archive. */
export interface ZipSource {
  readonly name: string
  readonly size: number
  /** `size` bytes in all; a piece is taken before the next is asked for. */
  readonly pieces: () => Iterable<Uint8Array>
}

/** Data starts at a multiple of this, so that a reader may map it. */
const alignment = 64
/** Sizes behind the data (bit 3), names in UTF-8 (bit 11). */
const flags = 0x0808
/** Beyond it the fields of 32 bits do not reach. */
const largestArchive = 0xffffffff

/**
 * The bytes of a zip file with these entries, in order.
 *
 * Source: the zip format (APPNOTE 6.3); alignment and field values as in files of torch.save.
 *
 * @throws ClaraError when the archive would be larger than 4 GiB.
 */
export function* zipArchive(sources: readonly ZipSource[]): Generator<Uint8Array> {
  const records: Uint8Array[] = []
  let offset = 0
  for (const { name, size, pieces } of sources) {
    const encoded = new TextEncoder().encode(name)
    const unpadded = offset + 30 + encoded.length + 4
    const padding = (alignment - (unpadded % alignment)) % alignment
    const header = new Uint8Array(30 + encoded.length + 4 + padding).fill(0x5a)
    const head = fields(header, 'PK\x03\x04')
    head.uint16(0, flags, 0, 0, 0)
    head.uint32(0, 0, 0)
    head.uint16(encoded.length, 4 + padding)
    head.bytes(encoded)
    head.bytes(Uint8Array.of(0x46, 0x42))
    head.uint16(padding)
    if (offset + header.length + size > largestArchive) {
      throw new ClaraError('A PyTorch checkpoint larger than 4 GiB cannot be written.', {
        received: `entry "${name}" of ${size} bytes behind ${offset} others`,
      })
    }
    yield header
    let sum = 0
    for (const piece of pieces()) {
      sum = crc32(piece, sum)
      yield piece
    }
    const descriptor = new Uint8Array(16)
    fields(descriptor, 'PK\x07\x08').uint32(sum, size, size)
    yield descriptor
    const record = new Uint8Array(46 + encoded.length)
    const entry = fields(record, 'PK\x01\x02')
    entry.uint16(0, 0, flags, 0, 0, 0)
    entry.uint32(sum, size, size)
    entry.uint16(encoded.length, 0, 0, 0, 0)
    entry.uint32(0, offset)
    entry.bytes(encoded)
    records.push(record)
    offset += header.length + size + descriptor.length
  }
  yield* records
  const bytes = records.reduce((sum, { length }) => sum + length, 0)
  yield ending(records.length, bytes, offset)
}

/** The end of the directory, in the form of zip64 and in the plain one. */
function ending(count: number, bytes: number, start: number): Uint8Array {
  const end = new Uint8Array(56 + 20 + 22)
  const wide = fields(end, 'PK\x06\x06')
  wide.uint64(44)
  wide.uint16(0x031e, 45)
  wide.uint32(0, 0)
  wide.uint64(count, count, bytes, start)
  const locator = fields(end.subarray(56), 'PK\x06\x07')
  locator.uint32(0)
  locator.uint64(start + bytes)
  locator.uint32(1)
  const plain = fields(end.subarray(76), 'PK\x05\x06')
  const narrow = Math.min(count, 0xffff)
  plain.uint16(0, 0, narrow, narrow)
  plain.uint32(bytes, start)
  plain.uint16(0)
  return end
}

/** Writes little-endian fields one behind the other, after a signature. */
function fields(target: Uint8Array, signature: string) {
  const view = new DataView(target.buffer, target.byteOffset, target.byteLength)
  let at = 0
  /** Where a field of `width` bytes begins. */
  const advance = (width: number) => {
    at += width
    return at - width
  }
  const bytes = (values: Uint8Array) => target.set(values, advance(values.length))
  bytes(new TextEncoder().encode(signature))
  return {
    bytes,
    uint16(...values: number[]) {
      for (const value of values) view.setUint16(advance(2), value, true)
    },
    uint32(...values: number[]) {
      for (const value of values) view.setUint32(advance(4), value, true)
    },
    uint64(...values: number[]) {
      for (const value of values) view.setBigUint64(advance(8), BigInt(value), true)
    },
  }
}

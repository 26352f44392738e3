/** Pickles and zip files by hand, for the tests of the PyTorch reader. */
import { crc32 } from 'node:zlib'
import { concatenated, uint32, uint64, utf8 } from './support.ts'

/** What a test puts into a pickle: plain data, or instructions of its own. */
export type Picklable = null | boolean | number | string | readonly Picklable[] | Dictionary | Tuple | Instructions
export interface Dictionary {
  readonly pairs: readonly (readonly [Picklable, Picklable])[]
}
export interface Tuple {
  readonly tuple: readonly Picklable[]
}
export interface Instructions {
  readonly raw: Uint8Array
}

export const dictionary = (items: Readonly<Record<string, Picklable>>): Dictionary => ({ pairs: Object.entries(items) })
export const tuple = (...items: readonly Picklable[]): Tuple => ({ tuple: items })
export const global = (module: string, name: string): Instructions => ({ raw: utf8(`c${module}\n${name}\n`) })
export const call = (callee: Instructions, ...parameters: readonly Picklable[]): Instructions => ({
  raw: concatenated(callee.raw, encode(tuple(...parameters)), utf8('R')),
})

/** A storage as PyTorch refers to it. */
export function storage(type: string, key: string, elements: number): Instructions {
  return {
    raw: concatenated(encode(tuple('storage', global('torch', `${type}Storage`), key, 'cpu', elements)), utf8('Q')),
  }
}

/** A tensor as PyTorch rebuilds it. */
export function tensor(
  of: Instructions,
  offset: number,
  dims: readonly number[],
  strides: readonly number[],
): Instructions {
  const hooks = call(global('collections', 'OrderedDict'))
  return call(global('torch._utils', '_rebuild_tensor_v2'), of, offset, tuple(...dims), tuple(...strides), false, hooks)
}

function encode(value: Picklable): Uint8Array {
  if (value === null) return utf8('N')
  if (value === true) return Uint8Array.of(0x88)
  if (value === false) return Uint8Array.of(0x89)
  if (typeof value === 'string') return concatenated(utf8('X'), uint32(utf8(value).length), utf8(value))
  if (typeof value === 'number')
    return Number.isInteger(value) && Math.abs(value) < 2 ** 31
      ? concatenated(utf8('J'), uint32(value >>> 0))
      : bigNumber(value)
  if ('raw' in value) return value.raw
  if ('tuple' in value) return concatenated(utf8('('), ...value.tuple.map(encode), utf8('t'))
  if ('pairs' in value)
    return concatenated(utf8('}('), ...value.pairs.flatMap(([key, item]) => [encode(key), encode(item)]), utf8('u'))
  return concatenated(utf8(']('), ...value.map(encode), utf8('e'))
}

function bigNumber(value: number): Uint8Array {
  if (Number.isInteger(value)) return concatenated([0x8a, 8], uint64(BigInt.asUintN(64, BigInt(value))))
  const bytes = new Uint8Array(8)
  new DataView(bytes.buffer).setFloat64(0, value, false)
  return concatenated(utf8('G'), bytes)
}

/** A whole pickle of protocol 2. */
export const pickle = (value: Picklable): Uint8Array<ArrayBuffer> => concatenated([0x80, 2], encode(value), utf8('.'))

export interface ZipPart {
  readonly name: string
  readonly bytes: Uint8Array
  /** 8 = deflated, where `bytes` are the packed ones. Default 0. */
  readonly method?: number
  /** Unpacked size, when it differs. */
  readonly size?: number
  readonly flags?: number
}

const uint16 = (value: number) => uint32(value).subarray(0, 2)

/**
 * A zip file.
 *
 * @param zip64 Put sizes and offsets where zip64 does.
 */
export function zip(parts: readonly ZipPart[], zip64 = false): Uint8Array<ArrayBuffer> {
  const files: Uint8Array[] = []
  const records: Uint8Array[] = []
  let offset = 0
  for (const { name, bytes, method = 0, size = bytes.length, flags = 0 } of parts) {
    const common = concatenated(uint16(flags), uint16(method), uint32(0), uint32(crc32(bytes)))
    // The local header's extra field is longer than the directory's, as in PyTorch's files, which align the data.
    const local = concatenated(
      uint32(0x04034b50),
      uint16(20),
      common,
      uint32(bytes.length),
      uint32(size),
      uint16(utf8(name).length),
      uint16(7),
      utf8(name),
      [0x46, 0x42, 3, 0, 1, 2, 3],
    )
    const wide = zip64
      ? concatenated([0x46, 0x42, 1, 0, 9], uint16(1), uint16(24), uint64(size), uint64(bytes.length), uint64(offset))
      : new Uint8Array(0)
    const narrow = (value: number) => uint32(zip64 ? 0xffffffff : value)
    const sizes = concatenated(
      narrow(bytes.length),
      narrow(size),
      uint16(utf8(name).length),
      uint16(wide.length),
      uint16(0),
      new Uint8Array(8),
      narrow(offset),
    )
    records.push(concatenated(uint32(0x02014b50), uint16(20), uint16(20), common, sizes, utf8(name), wide))
    files.push(local, bytes)
    offset += local.length + bytes.length
  }
  const directory = concatenated(...records)
  const wideEnd = concatenated(
    uint32(0x06064b50),
    uint64(44),
    uint16(45),
    uint16(45),
    new Uint8Array(8),
    uint64(parts.length),
    uint64(parts.length),
    uint64(directory.length),
    uint64(offset),
  )
  const locator = concatenated(uint32(0x07064b50), uint32(0), uint64(offset + directory.length), uint32(1))
  const end = zip64
    ? concatenated(
        wideEnd,
        locator,
        uint32(0x06054b50),
        new Uint8Array(4),
        uint16(0xffff),
        uint16(0xffff),
        uint32(0xffffffff),
        uint32(0xffffffff),
        uint16(0),
      )
    : concatenated(
        uint32(0x06054b50),
        new Uint8Array(4),
        uint16(parts.length),
        uint16(parts.length),
        uint32(directory.length),
        uint32(offset),
        uint16(0),
      )
  return concatenated(...files, directory, end)
}

/** A PyTorch checkpoint: the pickle and its storages by key. */
export function pth(
  value: Picklable,
  storages: Readonly<Record<string, Uint8Array>> = {},
  zip64 = false,
): Uint8Array<ArrayBuffer> {
  const data = Object.entries(storages).map(([key, bytes]) => ({ name: `archive/data/${key}`, bytes }))
  return zip(
    [{ name: 'archive/data.pkl', bytes: pickle(value) }, { name: 'archive/byteorder', bytes: utf8('little') }, ...data],
    zip64,
  )
}

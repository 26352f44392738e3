import { closeSync, fstatSync, openSync } from 'node:fs'
import { readInto } from '../../read-into.ts'
import { type Message, messageOf, messagesIn, numberIn, numbersIn, textIn } from './message.ts'

/*
 * Where the values of a column of long binary values lie in a data file of Lance's format 2.1 (lance: protos/file2.proto, protos/encodings_v2_1.proto): a footer leads
 * to the description of each column, that to its pages; a page has one buffer of values, each after its length in 32 bits, and one of their ends ("full zip" layout
 * with a repetition index). Other layouts are left to LanceDB.
 */

/** Some pages' values, one after the other. */
interface Page {
  /** Row of the file that the page begins with. */
  readonly first: number
  readonly rows: number
  /** Where its values begin in the file. */
  readonly offset: number
  /** Where each begins behind that, and where the last ends. */
  readonly starts: Uint32Array
}

export type BinaryColumn = readonly Page[]

/** Bytes of a file. */
export interface Extent {
  readonly offset: number
  readonly length: number
}

const FOOTER = 40
const MAGIC = 'LANC'
/** Before each value. */
const LENGTH_BYTES = 4
const OFFSET_BITS = 32
/** Bytes of a place in the index: as few as the last one needs. */
const INDEX_WIDTHS: readonly number[] = [1, 2, 4]

/** @throws Error when the file is cut off or of a kind that is not known here. */
export function readBinaryColumn(path: string, column: number): BinaryColumn {
  const file = openSync(path, 'r')
  try {
    const { size } = fstatSync(file)
    const footer = readExtent(file, { offset: size - FOOTER, length: FOOTER })
    const version = [footer.readUInt16LE(32), footer.readUInt16LE(34)].join('.')
    if (footer.toString('latin1', 36) !== MAGIC || version !== '2.1') throw unknown(`version ${version}`)
    if (column >= footer.readUInt32LE(28)) throw unknown(`column ${column}`)
    const table = Number(footer.readBigUInt64LE(8))
    const entry = readExtent(file, { offset: table + 16 * column, length: 16 })
    const described = within(size, Number(entry.readBigUInt64LE(0)), Number(entry.readBigUInt64LE(8)))
    let first = 0
    return messagesIn(messageOf(readExtent(file, described)), 2).map((description) => {
      const page = readPage(file, size, first, description)
      first += page.rows
      return page
    })
  } finally {
    closeSync(file)
  }
}

/** Where a row's value lies; undefined when the file has no such row. */
export function extentOf(column: BinaryColumn, row: number): Extent | undefined {
  const page = column.find(({ first, rows }) => row >= first && row < first + rows)
  const [start, end] = page === undefined ? [] : [page.starts[row - page.first], page.starts[row - page.first + 1]]
  if (page === undefined || start === undefined || end === undefined) return undefined
  return { offset: page.offset + start + LENGTH_BYTES, length: end - start - LENGTH_BYTES }
}

function readExtent(file: number, { offset, length }: Extent): Buffer {
  const bytes = Buffer.allocUnsafeSlow(length)
  readInto(bytes, file, offset)
  return bytes
}

function readPage(file: number, size: number, first: number, description: Message): Page {
  const rows = numberIn(description, 3)
  const [offsets, sizes] = [numbersIn(description, 1), numbersIn(description, 2)]
  const [values, index] = offsets.map((offset, at) => within(size, offset, sizes[at] ?? 0))
  if (values === undefined || index === undefined || offsets.length !== 2) throw unknown('buffers')
  const width = index.length / (rows + 1)
  if (!isPlain(layoutOf(description), rows) || !INDEX_WIDTHS.includes(width)) throw unknown('layout')
  const read = readExtent(file, index)
  const starts = Uint32Array.from({ length: rows + 1 }, (_, at) => read.readUIntLE(width * at, width))
  for (let row = 0; row < rows; row++) {
    if ((starts[row + 1] ?? 0) < (starts[row] ?? 0) + LENGTH_BYTES) throw unknown('order of values')
  }
  if ((starts[rows] ?? 0) > values.length) throw unknown('length of values')
  return { first, rows, offset: values.offset, starts }
}

/** The layout's own description is within: Encoding, its direct form, a value of any type. */
function layoutOf(page: Message): Message | undefined {
  const [encoding] = messagesIn(page, 4)
  const [direct] = messagesIn(encoding, 2)
  const [any] = messagesIn(direct, 1)
  if (textIn(any, 1) !== '/lance.encodings21.PageLayout') return undefined
  const [layout] = messagesIn(any, 2)
  return messagesIn(layout, 3)[0]
}

/** Whether all values are there, each after its length, as they are. */
function isPlain(layout: Message | undefined, rows: number): boolean {
  const [compression] = messagesIn(layout, 7)
  const [variable] = messagesIn(compression, 2)
  const [offsets] = messagesIn(variable, 1)
  const [flat] = messagesIn(offsets, 1)
  return (
    // levels of repetition and definition
    numberIn(layout, 1) === 0 &&
    numberIn(layout, 2) === 0 &&
    numberIn(layout, 4) === OFFSET_BITS &&
    numberIn(layout, 5) === rows &&
    numberIn(layout, 6) === rows &&
    compression?.size === 1 &&
    variable?.size === 1 &&
    offsets?.size === 1 &&
    flat?.size === 1 &&
    numberIn(flat, 1) === OFFSET_BITS
  )
}

function within(size: number, offset: number, length: number): Extent {
  if (!(offset >= 0 && length >= 0 && offset + length <= size)) throw unknown('places')
  return { offset, length }
}

const unknown = (what: string) => new RangeError(`A data file with other ${what} than are known here.`)

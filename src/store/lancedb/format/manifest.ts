import { readFile } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { messageOf, messagesIn, numberIn, numbersIn, textIn } from './message.ts'

/*
 * Which file holds which rows, from the manifest of a version of a table (lance: protos/table.proto, messages Manifest, DataFragment and DataFile). Rows are
 * numbered by fragment · 2^32 + position in it.
 */

/** A column of the data file of a fragment. */
export interface DataFile {
  readonly path: string
  readonly column: number
}

/** Numbers of rows that belong to a fragment. */
export const FILE = 2 ** 32
const FOOTER = 16
const MAGIC = 'LANC'
/** Flags of tables that are read as here: rows that were deleted are listed, the second file format, settings. Rows with lasting numbers are not. */
const KNOWN_FLAGS = 1 | 4 | 8

/**
 * Data files of a column by fragment.
 * @param table Folder of the table.
 * @throws Error when the manifest is of a kind that is not known here.
 */
export async function dataFilesOf(table: string, version: number, column: string): Promise<Map<number, DataFile>> {
  // the newest first by name: versions count down from 2^64 - 1
  const name = `${2n ** 64n - 1n - BigInt(version)}`.padStart(20, '0')
  const bytes = await readFile(join(table, '_versions', `${name}.manifest`))
  const place = Number(bytes.readBigUInt64LE(bytes.length - FOOTER))
  if (bytes.subarray(-MAGIC.length).toString('latin1') !== MAGIC) throw new RangeError('This is no manifest.')
  const length = bytes.readUInt32LE(place)
  const manifest = messageOf(bytes.subarray(place + 4, place + 4 + length))
  const flags = numberIn(manifest, 9)
  if (numberIn(manifest, 3) !== version || (flags & ~KNOWN_FLAGS) !== 0) throw new RangeError('Unknown manifest.')
  const field = messagesIn(manifest, 1).find((one) => textIn(one, 2) === column && !isNested(numberIn(one, 4)))
  if (field === undefined) throw new RangeError(`There is no column ${column}.`)
  const id = numberIn(field, 3)
  const files = new Map<number, DataFile>()
  for (const fragment of messagesIn(manifest, 2)) {
    for (const file of messagesIn(fragment, 2)) {
      const index = numbersIn(file, 2).indexOf(id)
      const [path, at] = [textIn(file, 1), numbersIn(file, 3)[index]]
      // a file elsewhere has the number of its base; nothing that a table names may lead out of its folder
      if (at === undefined || file.has(7) || path === '' || basename(path) !== path) continue
      files.set(numberIn(fragment, 1), { path: join(table, 'data', path), column: at })
    }
  }
  return files
}

/** A field's parent is -1 where it has none: 2^64 - 1 as it is read. */
const isNested = (parent: number) => parent < 2 ** 63

import { closeSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { dataFolder } from './folder.ts'
import { type BinaryColumn, extentOf, readBinaryColumn, readExtent } from './format/binary-column.ts'
import { type DataFile, dataFilesOf } from './format/manifest.ts'

/*
 * Memories read where they lie in Lance's data files. A search scores many memories and keeps few: through LanceDB each costs a task, two copies and the
 * collector's work, which is most of a search's time. Whatever is not as it is known here is left to LanceDB.
 */

const FILE = 2 ** 32

/** Where the memories of one version of the table lie. */
export interface MemoryFiles {
  readonly files: ReadonlyMap<number, DataFile>
  /** Columns that were read, by the path of their file; undefined where it is of an unknown kind. A file never changes. */
  readonly columns: Map<string, BinaryColumn | undefined>
}

/** @param before Of an earlier version, whose columns are kept where their files still are. @returns undefined where the table is of an unknown kind. */
export async function memoryFilesOf(
  folder: string,
  version: number,
  before: MemoryFiles | undefined,
): Promise<MemoryFiles | undefined> {
  try {
    const files = await dataFilesOf(join(dataFolder(folder), 'rows.lance'), version, 'memory')
    const paths = new Set(Array.from(files.values(), ({ path }) => path))
    return { files, columns: new Map([...(before?.columns ?? [])].filter(([path]) => paths.has(path))) }
  } catch {
    return undefined
  }
}

/**
 * @param places Numbers of the rows, in ascending order.
 * @returns Their memories as they are encoded, parts of one buffer of their own; undefined where one cannot be read here.
 */
export function readMemories({ files, columns }: MemoryFiles, places: readonly number[]): Uint8Array[] | undefined {
  const open = new Map<string, number>()
  try {
    const found = places.map((place) => {
      const file = files.get(Math.floor(place / FILE))
      if (file === undefined) throw new RangeError('There is no such file.')
      if (!columns.has(file.path)) columns.set(file.path, columnOf(file))
      const column = columns.get(file.path)
      const extent = column === undefined ? undefined : extentOf(column, place % FILE)
      if (extent === undefined) throw new RangeError('There is no such row.')
      return { path: file.path, extent }
    })
    const buffer = Buffer.allocUnsafeSlow(found.reduce((sum, { extent }) => sum + extent.length, 0))
    let end = 0
    return found.map(({ path, extent }) => {
      const file = open.get(path) ?? openSync(path, 'r')
      open.set(path, file)
      const memory = readExtent(file, extent, buffer.subarray(end))
      end += extent.length
      return memory
    })
  } catch {
    return undefined
  } finally {
    for (const file of open.values()) closeSync(file)
  }
}

function columnOf({ path, column }: DataFile): BinaryColumn | undefined {
  try {
    return readBinaryColumn(path, column)
  } catch {
    return undefined
  }
}

import { closeSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { readInto } from '../read-into.ts'
import { dataFolder } from './folder.ts'
import { type BinaryColumn, extentOf, readBinaryColumn } from './format/binary-column.ts'
import { type DataFile, dataFilesOf, FILE } from './format/manifest.ts'

/*
 * Memories read where they lie in Lance's data files. A search scores many memories and keeps none: through LanceDB each costs a task, two copies and the
 * collector's work, which was most of a search's time. Whatever is not as it is known here is left to LanceDB.
 */

/** Reads memories of a store's rows into a buffer that it keeps: what a search reads anew each time would set off the collector every few searches. */
export class MemoryReader {
  readonly #table: string
  /** Data files by fragment; undefined where the table is of an unknown kind. */
  #files: ReadonlyMap<number, DataFile> | undefined
  /** By the path of their file, which never changes; undefined where it is of an unknown kind. */
  #columns = new Map<string, BinaryColumn | undefined>()
  #buffer = Buffer.alloc(0)

  /** @param folder Of the store. */
  constructor(folder: string) {
    this.#table = join(dataFolder(folder), 'rows.lance')
  }

  /** Reads from this version of the table from now on. */
  async turnTo(version: number): Promise<void> {
    this.#files = await dataFilesOf(this.#table, version, 'memory').catch(() => undefined)
    const paths = new Set(Array.from(this.#files?.values() ?? [], ({ path }) => path))
    this.#columns = new Map([...this.#columns].filter(([path]) => paths.has(path)))
  }

  /**
   * @param places Numbers of the rows, in ascending order.
   * @returns Their memories as they are encoded, until the next call; undefined where one cannot be read here.
   */
  read(places: readonly number[]): Uint8Array[] | undefined {
    const open = new Map<string, number>()
    try {
      const found = places.map((place) => this.#find(place))
      const bytes = found.reduce((sum, { extent }) => sum + extent.length, 0)
      if (bytes > this.#buffer.length) this.#buffer = Buffer.allocUnsafeSlow(2 * bytes)
      let end = 0
      return found.map(({ path, extent }) => {
        const file = open.get(path) ?? openSync(path, 'r')
        open.set(path, file)
        const memory = this.#buffer.subarray(end, end + extent.length)
        readInto(memory, file, extent.offset)
        end += extent.length
        return memory
      })
    } catch {
      return undefined
    } finally {
      for (const file of open.values()) closeSync(file)
    }
  }

  /** @throws RangeError where it is not known. */
  #find(place: number) {
    const file = this.#files?.get(Math.floor(place / FILE))
    if (file === undefined) throw new RangeError('There is no such file.')
    const { path } = file
    if (!this.#columns.has(path)) this.#columns.set(path, columnOf(file))
    const column = this.#columns.get(path)
    const extent = column === undefined ? undefined : extentOf(column, place % FILE)
    if (extent === undefined) throw new RangeError('There is no such row.')
    return { path, extent }
  }
}

function columnOf({ path, column }: DataFile): BinaryColumn | undefined {
  try {
    return readBinaryColumn(path, column)
  } catch {
    return undefined
  }
}

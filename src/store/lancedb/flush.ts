import { open, readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { dataFolder } from './folder.ts'

/** Files that were written this long before the first flush are on the disk by the system's own doing. Milliseconds. */
const SETTLED = 10 * 60_000

/**
 * Sees to it that what LanceDB wrote is on the disk, and not only in the system's memory, before a write is acknowledged: LanceDB itself leaves that
 * to the system, so that a power cut could take the last seconds. Its files are never changed once written, so only new ones need it.
 */
export class Flusher {
  readonly #folder: string
  /** Every file that is known to be on the disk. */
  #safe: ReadonlySet<string> | undefined

  constructor(folder: string) {
    this.#folder = dataFolder(folder)
  }

  async flush(): Promise<void> {
    const entries = await readdir(this.#folder, { recursive: true, withFileTypes: true })
    const present = new Set<string>()
    const folders = new Set<string>()
    for (const entry of entries) {
      if (!entry.isFile()) continue
      const path = join(entry.parentPath, entry.name)
      present.add(path)
      if (this.#safe?.has(path) || (this.#safe === undefined && (await isSettled(path)))) continue
      await sync(path, 'r+')
      folders.add(entry.parentPath)
    }
    for (const folder of folders) await sync(folder, 'r')
    this.#safe = present
  }
}

async function isSettled(path: string): Promise<boolean> {
  return stat(path).then(
    ({ mtimeMs }) => Date.now() - mtimeMs > SETTLED,
    () => true,
  )
}

async function sync(path: string, mode: 'r' | 'r+'): Promise<void> {
  try {
    const handle = await open(path, mode)
    try {
      await handle.sync()
    } finally {
      await handle.close()
    }
  } catch (error) {
    // Cleaned up meanwhile, or a folder on a system that does not flush folders. What the disk itself refuses is passed on.
    if (error instanceof Error && 'code' in error && (error.code === 'EIO' || error.code === 'ENOSPC')) throw error
  }
}

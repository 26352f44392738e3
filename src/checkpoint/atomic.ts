import { randomBytes } from 'node:crypto'
import type { FileHandle } from 'node:fs/promises'
import { open, rename, rm } from 'node:fs/promises'
import { basename, dirname, join } from 'node:path'
import { ClaraError } from '../errors.ts'

/** What can be written: all at once, or in pieces that need not be in memory together. */
export type FileContent = string | Uint8Array | Iterable<Uint8Array> | AsyncIterable<Uint8Array>

/**
 * Writes a file so that a reader sees the old content or the new, never a part: to a temporary name in the same folder, flushed to the
 * disk, then renamed. When anything fails the temporary file is removed and a previous file stays as it was.
 *
 * @throws ClaraError when the disk is full, the folder is missing or may not be written; an error of the pieces' own source is passed on.
 */
export async function writeFileAtomic(path: string, content: FileContent): Promise<void> {
  const folder = dirname(path)
  const temporary = join(folder, `.${basename(path)}.${process.pid}.${randomBytes(6).toString('hex')}.tmp`)
  try {
    const handle = await open(temporary, 'wx')
    try {
      for await (const piece of piecesOf(content)) await writeAll(handle, piece)
      await handle.sync()
    } finally {
      await handle.close()
    }
    await rename(temporary, path)
  } catch (error) {
    await rm(temporary, { force: true })
    throw explained(path, temporary, error)
  }
  await flushFolder(folder)
}

function piecesOf(content: FileContent): Iterable<Uint8Array> | AsyncIterable<Uint8Array> {
  if (typeof content === 'string') return [new TextEncoder().encode(content)]
  return content instanceof Uint8Array ? [content] : content
}

async function writeAll(handle: FileHandle, piece: Uint8Array): Promise<void> {
  // The operating system takes at most 2 GiB at once and may take less than it was given.
  for (let done = 0; done < piece.byteLength; ) {
    const { bytesWritten } = await handle.write(piece, done, Math.min(piece.byteLength - done, 1 << 26))
    done += bytesWritten
  }
}

/** Makes the rename itself survive a power cut, where the system lets a folder be flushed. */
async function flushFolder(folder: string): Promise<void> {
  try {
    const handle = await open(folder, 'r')
    try {
      await handle.sync()
    } finally {
      await handle.close()
    }
  } catch {
    // Windows and some network file systems refuse; the file itself is already safe.
  }
}

function explained(path: string, temporary: string, error: unknown): unknown {
  if (!(error instanceof Error && 'code' in error)) return error
  const { code } = error
  if (code === 'ENOSPC' || code === 'EDQUOT') {
    return new ClaraError(`The disk is full: "${path}" could not be written.`, {
      hint: 'The previous file, if there was one, is intact. Free some space and try again.',
      cause: error,
    })
  }
  // What concerns another file comes from the content's source, which explains itself.
  if (!('path' in error && error.path === temporary)) return error
  if (code === 'ENOENT') {
    return new ClaraError(`"${path}" cannot be written: its folder does not exist.`, {
      hint: 'Create the folder first.',
      cause: error,
    })
  }
  return new ClaraError(`"${path}" cannot be written.`, {
    received: String(code),
    hint: 'Choose a folder that may be written to.',
    cause: error,
  })
}

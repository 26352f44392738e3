import type { FileHandle } from 'node:fs/promises'
import { open, stat } from 'node:fs/promises'
import { ClaraError } from '../errors.ts'

/** Bytes asked of the operating system at a time; a tensor of several gigabytes never lies in memory twice. */
const pieceBytes = 4 << 20

/** A file open for reads at any position. Every read is checked against the file's size before memory is allocated. */
export interface PositionedFile {
  readonly path: string
  /** Length in bytes when it was opened. */
  readonly size: number
  /** Fills `target` from the position; an error names the file when it ends before. */
  readInto(target: Uint8Array, position: number): Promise<void>
  /** `length` bytes from the position, in memory of their own. */
  read(position: number, length: number): Promise<Uint8Array<ArrayBuffer>>
  /** The same bytes in pieces whose length is a multiple of `multiple` (the last one may be shorter). A piece is valid until the next. */
  pieces(position: number, length: number, multiple?: number): AsyncGenerator<Uint8Array<ArrayBuffer>>
  close(): Promise<void>
}

/**
 * Opens a file for positioned reads.
 *
 * @throws ClaraError when the file is missing, unreadable or not a regular file.
 */
export async function openPositioned(path: string): Promise<PositionedFile> {
  try {
    // Asked before opening: opening a pipe would wait for its writer.
    const facts = await stat(path)
    if (!facts.isFile()) {
      const received = facts.isDirectory() ? 'a folder' : 'something else'
      throw new ClaraError(`"${path}" is not a file.`, { expected: 'a regular file', received })
    }
    const handle = await open(path, 'r')
    return positioned(path, facts.size, handle)
  } catch (error) {
    throw error instanceof ClaraError ? error : cannotOpen(path, error)
  }
}

function cannotOpen(path: string, cause: unknown): ClaraError {
  const code = cause instanceof Error && 'code' in cause ? String(cause.code) : String(cause)
  if (code === 'ENOENT') return new ClaraError(`"${path}" does not exist.`, { hint: 'Check the path.', cause })
  return new ClaraError(`"${path}" cannot be opened for reading.`, { received: code, cause })
}

function positioned(path: string, size: number, handle: FileHandle): PositionedFile {
  async function readInto(target: Uint8Array, position: number): Promise<void> {
    if (handle.fd < 0)
      throw new ClaraError(`"${path}" was closed before it was read.`, { hint: 'Close a model after its last use.' })
    checkInside(path, size, position, target.byteLength)
    let done = 0
    while (done < target.byteLength) {
      const length = Math.min(target.byteLength - done, pieceBytes)
      const { bytesRead } = await handle.read(target, done, length, position + done)
      if (bytesRead === 0) {
        throw new ClaraError(`"${path}" became shorter while it was read.`, {
          hint: 'Do not write to a model file in use.',
        })
      }
      done += bytesRead
    }
  }
  async function* pieces(position: number, length: number, multiple = 1): AsyncGenerator<Uint8Array<ArrayBuffer>> {
    checkInside(path, size, position, length)
    const step = Math.max(multiple, Math.floor(pieceBytes / multiple) * multiple)
    const buffer = new Uint8Array(Math.min(step, length))
    for (let done = 0; done < length; done += step) {
      const piece = buffer.subarray(0, Math.min(step, length - done))
      await readInto(piece, position + done)
      yield piece
    }
  }
  return {
    path,
    size,
    readInto,
    async read(position, length) {
      checkInside(path, size, position, length)
      const target = new Uint8Array(length)
      await readInto(target, position)
      return target
    },
    pieces,
    close: () => handle.close(),
  }
}

function checkInside(path: string, size: number, position: number, length: number): void {
  if (position < 0 || length < 0 || position + length > size) {
    throw new ClaraError(`"${path}" is truncated.`, {
      expected: `at least ${position + length} bytes`,
      received: `${size}`,
      hint: 'Download or copy it again.',
    })
  }
}

import { createHash } from 'node:crypto'
import { constants } from 'node:fs'
import { open, realpath } from 'node:fs/promises'
import { ClaraError } from '../errors.ts'

/** What tells a changed file from an unchanged one. */
export interface Stamp {
  /** Bytes. */
  readonly size: number
  /** Time of the last change, in milliseconds; 0 when it was so recent that another change might bear the same time. */
  readonly mtimeMs: number
  /** SHA-256 of the bytes, in hexadecimal. */
  readonly sha256: string
}

/** Bytes with a name: a file, a web page, standard input. */
export interface Source {
  /** For messages, quoted. */
  readonly name: string
  /** Its extension decides the reader; may be empty. */
  readonly path: string
  readonly mediaType?: string
  /** The encoding that the sender names. */
  readonly charset?: string
  /** The file, if another process may open it to read the same. */
  readonly file?: string
  readonly stat?: { readonly size: number; readonly mtimeMs: number }
  /** The bytes; can be read once. */
  readonly pieces: AsyncIterable<Uint8Array>
  close(): Promise<void>
}

/** A source that is being read. */
export interface Input extends Omit<Source, 'pieces' | 'close'> {
  /** Its first bytes: all there are, or at least 8 KiB. */
  readonly head: Uint8Array
  /** All bytes, the head included; can be read once. */
  readonly stream: () => AsyncIterable<Uint8Array>
  /**
   * All bytes at once.
   * @throws ClaraError when there are more than `limit`.
   */
  readonly bytes: (limit: number) => Promise<Uint8Array>
  /** Reads whatever is left; the hash and the number of all bytes. */
  readonly finish: () => Promise<{ readonly sha256: string; readonly size: number }>
}

const PIECE = 256 * 1024
const HEAD = 8 * 1024
/** File systems keep times in steps of up to this. */
const RECENT_MS = 2000

/** How a path is shown: quoted, so that line ends and the like in it do no harm. */
export const quoted = (path: string): string => JSON.stringify(path)

/**
 * Opens a regular file; a symbolic link is followed. Pipes and devices are never waited for.
 * @throws ClaraError when it is missing, not a file, or cannot be read.
 */
export async function openFile(path: string): Promise<Source> {
  const name = quoted(path)
  try {
    const real = await realpath(path)
    // without O_NONBLOCK, opening a pipe would wait for its writer
    const handle = await open(real, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0) | (constants.O_NOFOLLOW ?? 0))
    try {
      const stat = await handle.stat()
      if (!stat.isFile()) {
        throw new ClaraError(`${name} is not a file.`, {
          received: stat.isDirectory() ? 'a folder' : 'a pipe, a device or a socket',
        })
      }
      return {
        name,
        path,
        file: real,
        stat: { size: stat.size, mtimeMs: stat.mtimeMs },
        pieces: readPieces(() => handle.read(Buffer.allocUnsafe(PIECE), 0, PIECE, null), name),
        close: () => handle.close(),
      }
    } catch (error) {
      await handle.close()
      throw error
    }
  } catch (error) {
    throw fileError(name, error)
  }
}

async function* readPieces(
  next: () => Promise<{ readonly bytesRead: number; readonly buffer: Uint8Array }>,
  name: string,
): AsyncGenerator<Uint8Array, void, undefined> {
  for (;;) {
    const { bytesRead, buffer } = await next().catch((error: unknown) => {
      throw fileError(name, error)
    })
    if (bytesRead === 0) return
    yield buffer.subarray(0, bytesRead)
  }
}

/** What the system's refusal means to the person who named the file. */
export function fileError(name: string, error: unknown): ClaraError {
  if (error instanceof ClaraError) return error
  const code = error instanceof Error && 'code' in error ? String(error.code) : String(error)
  if (code === 'ENOENT' || code === 'ENOTDIR') {
    return name.includes('\ufffd')
      ? new ClaraError(`${name} cannot be opened: its name is not UTF-8.`, { hint: 'Rename it.', cause: error })
      : new ClaraError(`${name} does not exist.`, { hint: 'Check the path.', cause: error })
  }
  if (code === 'ELOOP') return new ClaraError(`${name} is a symbolic link that leads nowhere.`, { cause: error })
  if (code === 'EACCES' || code === 'EPERM') {
    return new ClaraError(`${name} may not be read.`, { received: code, hint: 'Check its permissions.', cause: error })
  }
  return new ClaraError(`${name} cannot be read.`, { received: code, cause: error })
}

/** Begins to read a source; stops when the signal aborts. */
export async function openInput(source: Source, signal?: AbortSignal): Promise<Input> {
  const hash = createHash('sha256')
  let size = 0
  const pieces = source.pieces[Symbol.asyncIterator]()
  const next = async () => {
    signal?.throwIfAborted()
    const { done, value } = await pieces.next()
    if (done === true) return undefined
    hash.update(value)
    size += value.length
    return value
  }
  const start: Uint8Array[] = []
  let ended = false
  while (!ended && size < HEAD) {
    const piece = await next()
    if (piece) start.push(piece)
    else ended = true
  }
  const head = start.length === 1 && start[0] ? start[0] : Buffer.concat(start)
  let given = false
  async function* stream() {
    if (given) throw new RangeError('A source can be read once.')
    given = true
    if (head.length > 0) yield head
    for (let piece = ended ? undefined : await next(); piece; piece = await next()) yield piece
    ended = true
  }
  const { pieces: _, close: __, ...facts } = source
  return {
    ...facts,
    head,
    stream,
    async bytes(limit) {
      if (source.stat && source.stat.size > limit) throw tooLarge(source.name, limit, source.stat.size)
      const parts: Uint8Array[] = []
      for await (const piece of stream()) {
        if (size > limit) throw tooLarge(source.name, limit)
        parts.push(piece)
      }
      return parts.length === 1 && parts[0] ? parts[0] : Buffer.concat(parts)
    },
    async finish() {
      for (let piece = ended ? undefined : await next(); piece; piece = await next());
      ended = true
      return { sha256: hash.copy().digest('hex'), size }
    },
  }
}

/** Whether a file of this time may change again without its time showing it. */
export function stampTime(mtimeMs: number, readAtMs: number): number {
  return readAtMs - mtimeMs < RECENT_MS ? 0 : mtimeMs
}

export function tooLarge(name: string, limit: number, size?: number): ClaraError {
  const mebibytes = (bytes: number) => `${(bytes / 1024 / 1024).toFixed(1)} MiB`
  return new ClaraError(`${name} is too large.`, {
    expected: `at most ${mebibytes(limit)}`,
    ...(size === undefined ? {} : { received: mebibytes(size) }),
    hint: 'Split it, or raise the limit.',
  })
}

import { constants } from 'node:fs'
import { type FileHandle, lstat, open, rename, rm } from 'node:fs/promises'
import { ClaraError } from '../errors.ts'
import { withFileErrors } from './cache.ts'
import { describe, type Subject, TransientError } from './failures.ts'
import { type Answer, type Connection, withAnswer } from './http.ts'
import type { HubFile } from './listing.ts'
import { withRetries } from './retry.ts'
import { createDigest, piecesOf } from './verify.ts'

/** One file to fetch, and where it goes. */
export interface Download {
  readonly file: HubFile
  readonly url: string
  readonly subject: Subject
  /** The commit that `url` names. */
  readonly commit: string
  /** Where bytes gather; what an earlier attempt left there is gone on with. */
  readonly partial: string
  /** Where the whole, verified content goes. */
  readonly blob: string
}

/** What happens to a file, and how many of its bytes are done with. */
export type OnDownload = (phase: 'checking' | 'fetching', done: number) => void

/**
 * Fetches a content into the cache: goes on where an earlier attempt ended, repeats after broken connections, and moves the file to
 * its place only when its size and hash are the listed ones.
 *
 * The request names a commit and the content is known by its hash, so nothing but the hash has to decide whether kept and new bytes
 * belong together: bytes that do not are found out at the end, thrown away, and fetched once more from the start.
 *
 * @throws ClaraError when the content stays damaged, is another than listed, or cannot be had or written; what has arrived is kept.
 */
export async function download(what: Download, connection: Connection, onProgress: OnDownload): Promise<void> {
  const { file, partial: path, blob } = what
  await withFileErrors(path, async () => {
    const partial = await openPartial(what, connection.signal, onProgress)
    try {
      for (let damaged = false; ; damaged = true) {
        await fetchRest(what, partial, connection, onProgress)
        const hex = partial.hex()
        if (hex === file.hash.hex) break
        await partial.restart()
        if (!damaged) continue
        await rm(path, { force: true })
        throw damagedError(what, hex)
      }
      await partial.sync()
    } finally {
      await partial.close()
    }
    await rename(path, blob)
  })
}

/** The bytes of a file that have arrived so far. */
interface Partial {
  readonly size: number
  append(bytes: Uint8Array): Promise<void>
  restart(): Promise<void>
  /** Hash of the bytes so far; to be asked once, or again after `restart`. */
  hex(): string
  sync(): Promise<void>
  close(): Promise<void>
}

async function openPartial(
  { file, partial: path }: Download,
  signal: AbortSignal | undefined,
  onProgress: OnDownload,
): Promise<Partial> {
  const facts = await lstat(path).catch(() => undefined)
  if (facts !== undefined && !facts.isFile()) await rm(path)
  // Without O_NOFOLLOW (Windows has none) a link put here since would be written through.
  const handle = await open(path, constants.O_RDWR | constants.O_CREAT | (constants.O_NOFOLLOW ?? 0), 0o644)
  const fresh = () => createDigest(file.hash.algorithm, file.size)
  let digest = fresh()
  let size = 0
  async function restart(): Promise<void> {
    await handle.truncate(0)
    digest = fresh()
    size = 0
  }
  try {
    if ((await handle.stat()).size > file.size) await restart()
    for await (const piece of piecesOf(handle, signal)) {
      digest.update(piece)
      size += piece.length
      onProgress('checking', size)
    }
  } catch (error) {
    await handle.close()
    throw error
  }
  return {
    get size() {
      return size
    },
    async append(bytes) {
      await writeAt(handle, bytes, size)
      digest.update(bytes)
      size += bytes.length
    },
    restart,
    hex: () => digest.hex(),
    sync: () => handle.sync(),
    close: () => handle.close(),
  }
}

async function writeAt(handle: FileHandle, bytes: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await handle.write(bytes, done, bytes.length - done, position + done)
    done += bytesWritten
  }
}

async function fetchRest(
  what: Download,
  partial: Partial,
  connection: Connection,
  onProgress: OnDownload,
): Promise<void> {
  const { file, url, subject } = what
  let most = partial.size
  onProgress('fetching', partial.size)
  if (partial.size === file.size) return

  async function attempt(): Promise<void> {
    const from = partial.size
    const headers: Record<string, string> = from === 0 ? {} : { range: `bytes=${from}-` }
    await withAnswer(url, headers, connection, subject, async (answer) => {
      checkIdentity(what, answer)
      if (!continues(answer, from)) await partial.restart()
      if (answer.status === 416) throw new TransientError(`The server has no rest of ${describe(subject)} to give.`)
      if (answer.status === 206 && partial.size !== from) {
        throw new TransientError(`The server sent another part of ${describe(subject)} than asked for.`)
      }
      for await (const piece of answer.chunks()) {
        if (partial.size + piece.length > file.size) {
          await partial.restart()
          throw otherContent(what, `more than the ${file.size} bytes listed`)
        }
        await partial.append(piece)
        onProgress('fetching', partial.size)
      }
    })
    if (partial.size < file.size) {
      throw new TransientError(`The connection broke while ${describe(subject)} was fetched.`, {
        received: `${partial.size} of ${file.size} bytes`,
      })
    }
  }
  function gained(): boolean {
    const more = partial.size > most
    if (more) most = partial.size
    return more
  }
  try {
    await withRetries(connection, attempt, { gained })
  } catch (error) {
    if (!(error instanceof TransientError)) throw error
    throw new ClaraError(error.message, {
      hint: `${partial.size} of ${file.size} bytes are kept: the same command goes on from there.`,
      cause: error,
    })
  }
}

/** Whether the answer's bytes follow those that are there. */
function continues({ status, headers }: Answer, from: number): boolean {
  if (status !== 206) return from === 0
  const start = /^bytes (\d+)-\d+\//.exec(headers.get('content-range') ?? '')?.[1]
  return start !== undefined && Number(start) === from
}

/** Refuses a file that is not the listed one, before any of its bytes is taken. */
function checkIdentity(what: Download, { status, headers, linked }: Answer): void {
  const { file, commit } = what
  if (linked.commit !== undefined && linked.commit !== commit) throw otherContent(what, `commit ${linked.commit}`)
  if (linked.etag !== undefined && linked.etag.length === file.hash.hex.length && linked.etag !== file.hash.hex) {
    throw otherContent(what, `hash ${linked.etag}`)
  }
  const plain = !headers.has('content-encoding')
  const total =
    status === 200 ? plain && headers.get('content-length') : /\/(\d+)$/.exec(headers.get('content-range') ?? '')?.[1]
  for (const size of [linked.size, total ? Number(total) : undefined]) {
    if (size !== undefined && size !== file.size) throw otherContent(what, `${size} bytes`)
  }
}

function otherContent({ file, subject }: Download, received: string): ClaraError {
  return new ClaraError(`The server offers another content for ${describe(subject)} than the hub lists.`, {
    expected: `${file.size} bytes with hash ${file.hash.hex}`,
    received,
    hint: 'Did it change just now? Run the command again; if that does not help, the mirror or a proxy is at fault.',
  })
}

function damagedError({ file, subject }: Download, received: string): ClaraError {
  return new ClaraError(`${describe(subject)} arrived damaged, twice. Nothing of it was kept.`, {
    expected: `${file.hash.algorithm} ${file.hash.hex}`,
    received,
    hint: 'The mirror, a proxy or this disk is at fault.',
  })
}

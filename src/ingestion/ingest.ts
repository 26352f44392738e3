import { stat } from 'node:fs/promises'
import { join, normalize, sep } from 'node:path'
import picomatch from 'picomatch'
import { z } from 'zod'
import { ClaraError } from '../errors.ts'
import type { Heading, JsonValue, Page, ReadDocument } from './document.ts'
import { openFolder } from './folder.ts'
import { folderOptionsSchema, parseOptions, readOptionsSchema } from './options.ts'
import { chooseReader, readerNamed } from './readers/choose.ts'
import { fileError, openFile, openInput, quoted, type Source, type Stamp, stampTime } from './source.ts'
import { isWebAddress, type Network, openWebPage } from './web.ts'

/** What is read, and how. One schema for programs, the command line and configuration files. */
export const ingestOptionsSchema = z.strictObject({
  ...readOptionsSchema.shape,
  ...folderOptionsSchema.shape,
  /** Whether web addresses are fetched. */
  allowNetwork: z.boolean().default(false),
})

export type IngestOptions = z.input<typeof ingestOptionsSchema> & {
  /**
   * What was noted of a file when it was last read; asked once a file. A file of the same size and time costs no more than this
   * question, one of the same bytes no more than reading them; a web page is fetched to compare it.
   */
  readonly known?: (path: string) => Stamp | undefined | Promise<Stamp | undefined>
  /** For the path `-`. Default: the process's standard input. */
  readonly stdin?: AsyncIterable<Uint8Array>
  /** How host names are resolved and which addresses are allowed. Default: the system's resolver, public addresses. */
  readonly network?: Network
  readonly signal?: AbortSignal
}

/** A document with its place. Unlike a reader's, complete. */
export interface SourceDocument {
  /**
   * The file's path; for a record, the path, `#`, and its own id or its number. Where the id field was named, a record's own id alone.
   */
  readonly id: string
  /** The file's path. */
  readonly source: string
  readonly title?: string
  readonly text: string
  readonly headings: readonly Heading[]
  readonly pages: readonly Page[]
  /** Whether lines, rather than sentences, are the text's units. */
  readonly lines: boolean
  readonly metadata: Readonly<Record<string, JsonValue>>
}

/** What happens while files are read. `path` is as it was given or found: normalised, with forward slashes; `-` for standard input. */
export type Ingested =
  /** Of a file's documents one; the file is not done yet. */
  | { readonly kind: 'document'; readonly path: string; readonly document: SourceDocument }
  /** A record that is left out. */
  | { readonly kind: 'problem'; readonly path: string; readonly reason: string }
  /** All documents of a file have been given (none, if it has no text): its stamp may be kept, and what it held before removed. */
  | {
      readonly kind: 'read'
      readonly path: string
      readonly stamp: Stamp
      readonly documents: number
      readonly problems: number
    }
  /** The file is as it was. The stamp may have another time; keeping it spares hashing next time. */
  | { readonly kind: 'unchanged'; readonly path: string; readonly stamp: Stamp }
  /** Left out on purpose. */
  | { readonly kind: 'skipped'; readonly path: string; readonly reason: string }
  /** Could not be read, or not to its end; documents that were given before stand. */
  | { readonly kind: 'failed'; readonly path: string; readonly reason: string; readonly error: ClaraError }

/**
 * Reads files, folders, globs, `-` (standard input) and web addresses, one document at a time: nothing is read before it is asked for, and no
 * list of names is held. What cannot be read is reported, and the rest goes on.
 * @throws ClaraError when the options are not right; the signal's reason when it aborts.
 */
export async function* ingest(
  inputs: Iterable<string> | AsyncIterable<string>,
  { known, stdin, network, signal, ...given }: IngestOptions = {},
): AsyncGenerator<Ingested, void, undefined> {
  const settings = parseOptions(ingestOptionsSchema, given, 'reading files')
  const context: Context = {
    settings,
    ...(known ? { known } : {}),
    ...(stdin ? { stdin } : {}),
    ...(network ? { network } : {}),
    ...(signal ? { signal } : {}),
  }
  for await (const input of inputs) {
    signal?.throwIfAborted()
    yield* ingestOne(input, context)
  }
}

interface Context extends Pick<IngestOptions, 'known' | 'stdin' | 'network' | 'signal'> {
  readonly settings: z.output<typeof ingestOptionsSchema>
}

async function* ingestOne(input: string, context: Context): AsyncGenerator<Ingested, void, undefined> {
  if (input === '-') {
    yield* readSource(input, async () => standardInput(context.stdin ?? process.stdin), context, true)
    return
  }
  if (isWebAddress(input)) {
    const { allowNetwork, limits } = context.settings
    const { documentBytes, seconds } = limits
    const options = { allowNetwork, bytes: documentBytes, seconds, ...pick(context) }
    yield* readSource(input, () => openWebPage(input, options), context, true)
    return
  }
  const path = normalPath(input)
  const facts = await stat(input).catch((error: unknown) => fileError(quoted(input), error))
  if (!(facts instanceof ClaraError)) {
    if (facts.isDirectory()) yield* ingestFolder(path, context)
    else yield* ingestFile(path, context, true)
    return
  }
  const { base, glob, isGlob } = picomatch.scan(input.split(sep).join('/'))
  if (isGlob) {
    const include = [glob.includes('/') ? glob : `./${glob}`]
    yield* ingestFolder(normalPath(base === '' ? '.' : base), {
      ...context,
      settings: { ...context.settings, include },
    })
  } else yield failure(path, facts)
}

const pick = ({ network, signal }: Context) => ({ ...(network ? { network } : {}), ...(signal ? { signal } : {}) })

async function* ingestFolder(root: string, context: Context): AsyncGenerator<Ingested, void, undefined> {
  const { include, exclude, hidden, ignoreFiles, followLinks } = context.settings
  const below = (path: string) => (path === '' ? root : normalPath(join(root, path)))
  try {
    const options = { include, exclude, hidden, ignoreFiles, followLinks }
    const folder = await openFolder(root, options, context.signal)
    for await (const entry of folder.walk()) {
      if (entry.kind === 'file') yield* ingestFile(below(entry.path), context, false)
      else if (entry.kind === 'skipped') yield { ...entry, path: below(entry.path) }
      else if (entry.kind === 'failed') yield failure(below(entry.path), entry.error)
    }
  } catch (error) {
    yield failure(root, asClaraError(error, root, context))
  }
}

/** @param named Whether it was named itself, rather than found in a folder: then being binary is an error. */
async function* ingestFile(path: string, context: Context, named: boolean): AsyncGenerator<Ingested, void, undefined> {
  try {
    const earlier = await context.known?.(path)
    if (earlier !== undefined) {
      const same = await unchangedStamp(path, earlier, context)
      if (same !== undefined) {
        yield { kind: 'unchanged', path, stamp: same }
        return
      }
    }
  } catch (error) {
    yield failure(path, asClaraError(error, path, context))
    return
  }
  yield* readSource(path, () => openFile(path), context, named)
}

async function unchangedStamp(path: string, earlier: Stamp, { signal }: Context): Promise<Stamp | undefined> {
  const { size, mtimeMs } = await stat(path)
  if (size !== earlier.size) return undefined
  if (mtimeMs === earlier.mtimeMs) return earlier
  const source = await openFile(path)
  try {
    const now = Date.now()
    const { sha256 } = await (await openInput(source, signal)).finish()
    return sha256 === earlier.sha256 ? { ...earlier, mtimeMs: stampTime(source.stat?.mtimeMs ?? 0, now) } : undefined
  } finally {
    await source.close()
  }
}

async function* readSource(
  path: string,
  open: () => Promise<Source>,
  context: Context,
  named: boolean,
): AsyncGenerator<Ingested, void, undefined> {
  const { settings, signal } = context
  let source: Source | undefined
  try {
    const now = Date.now()
    source = await open()
    let input = await openInput(source, signal)
    const earlier = source.stat === undefined ? await context.known?.(path) : undefined
    if (earlier !== undefined) {
      // what is no file can only be compared once it is here
      const bytes = await input.bytes(settings.limits.documentBytes)
      const { sha256, size } = await input.finish()
      if (sha256 === earlier.sha256) {
        yield { kind: 'unchanged', path, stamp: { size, sha256, mtimeMs: now } }
        return
      }
      input = await openInput({ ...source, pieces: piecesOf(bytes) }, signal)
    }
    const reader =
      settings.reader === undefined
        ? chooseReader(source.path, input.head, source.name, source.mediaType)
        : readerNamed(settings.reader)
    if (reader === undefined) {
      if (named)
        yield failure(path, new ClaraError(`${source.name} is binary: there is no text in it that can be read.`))
      else yield { kind: 'skipped', path, reason: 'binary' }
      return
    }
    let [documents, problems] = [0, 0]
    for await (const read of reader.read(input, { ...settings, ...(signal ? { signal } : {}) })) {
      if ('problem' in read) {
        problems += 1
        yield { kind: 'problem', path, reason: read.problem }
      } else if (read.text.trim() !== '') {
        documents += 1
        yield { kind: 'document', path, document: complete(read, path, settings.fields.id !== undefined) }
      }
    }
    const { sha256, size } = await input.finish()
    const stamp = { size, mtimeMs: stampTime(source.stat?.mtimeMs ?? now, now), sha256 }
    yield { kind: 'read', path, stamp, documents, problems }
  } catch (error) {
    yield failure(path, asClaraError(error, path, context))
  } finally {
    await source?.close()
  }
}

async function* piecesOf(bytes: Uint8Array): AsyncGenerator<Uint8Array, void, undefined> {
  yield bytes
}

function complete(read: ReadDocument, path: string, ownIds: boolean): SourceDocument {
  const { id, record, title, text, headings = [], pages = [], lines = false, metadata = {} } = read
  const place = record === undefined ? path : `${path}#${id ?? record}`
  return {
    id: ownIds && id !== undefined ? id : place,
    source: path,
    ...(title === undefined ? {} : { title }),
    text,
    headings,
    pages,
    lines,
    metadata,
  }
}

function standardInput(stream: AsyncIterable<Uint8Array>): Source {
  return { name: 'standard input', path: '', pieces: stream, close: async () => {} }
}

const failure = (path: string, error: ClaraError) => ({ kind: 'failed', path, reason: error.message, error }) as const

/** What stops one file; what stops everything is thrown on. */
function asClaraError(error: unknown, path: string, { signal }: Context): ClaraError {
  signal?.throwIfAborted()
  return fileError(quoted(path), error)
}

/** As documents are called by their files: normalised, forward slashes, no slash at the end. */
function normalPath(path: string): string {
  const normal = normalize(path).split(sep).join('/')
  return normal.length > 1 ? normal.replace(/\/+$/, '') : normal
}

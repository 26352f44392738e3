import { randomUUID } from 'node:crypto'
import { ClaraError } from '../errors.ts'
import { type Ingested, type IngestOptions, ingest, type SourceDocument } from '../ingestion/ingest.ts'
import type { Store } from '../store/store.ts'
import type { Adder } from './adder.ts'
import { checkDocument, hashOf, type KnowledgeDocument } from './chunks.ts'
import { type Entry, entryOf, type Records } from './records.ts'

/** How files are read: everything that decides which and how. */
export type ReadingOptions = Omit<IngestOptions, 'known' | 'signal'>

/** A file, or a record in one, that was left out, and why. */
export interface Problem {
  readonly path: string
  readonly reason: string
}

/** What became of files. */
export interface FilesRead {
  /** Files that were read now, that are as they were, that were left out on purpose, and that could not be read. */
  readonly read: number
  readonly unchanged: number
  readonly skipped: number
  readonly failed: number
  /** Why files, or records in them, could not be read; the first {@link MOST_PROBLEMS}. */
  readonly problems: readonly Problem[]
}

const MOST_PROBLEMS = 1_000

export interface FilesOptions {
  readonly adder: Adder
  readonly records: Records
  readonly store: () => Store | undefined
  readonly reading: ReadingOptions
  /** What decides how documents are cut; see the adder. */
  readonly settings: string
  readonly signal: AbortSignal | undefined
  /** Called for every event: what is seen of the files. */
  readonly onEvent: ((event: Ingested) => void) | undefined
}

/**
 * Reads files into an adder. A file of which size and time, or else the content, are as noted is not read; one that changed replaces its documents.
 * What cannot be read is reported, and keeps what is stored of it.
 */
export async function addFilesTo(inputs: readonly string[], options: FilesOptions): Promise<FilesRead> {
  const { adder, records, signal, onEvent } = options
  const counts = { read: 0, unchanged: 0, skipped: 0, failed: 0 }
  const problems: Problem[] = []
  const complain = ({ path, reason }: Problem) => {
    if (problems.length < MOST_PROBLEMS) problems.push({ path, reason })
  }
  const reading = readingHash(options)
  const run = randomUUID()
  /** The file that is being read. */
  let file: { readonly path: string; readonly earlier: Entry | undefined; holdsSeveral: boolean } | undefined
  const known = async (path: string) => {
    const { note } = (await records.get(path)) ?? {}
    return note?.incomplete !== true && note?.reading === reading ? note.stamp : undefined
  }
  for await (const event of ingest(inputs, { ...options.reading, known, ...(signal ? { signal } : {}) })) {
    const { kind, path } = event
    if (kind === 'document') {
      const several = event.document.id !== path
      if (file?.path !== path) file = { path, earlier: await records.get(path), holdsSeveral: several }
      if (several) file.holdsSeveral = true
      // were it cut off now, the file would be neither what it was nor what it is
      if (several) adder.begin(fileEntry(path, { source: path, several: true, incomplete: true }))
      try {
        const document = checkDocument(documentOf(event.document))
        await adder.offer(document, { source: path, ...(several ? { run } : {}) })
      } catch (error) {
        if (!(error instanceof ClaraError)) throw error
        complain({ path, reason: error.message })
      }
    } else if (kind === 'read') {
      counts.read++
      const earlier = file?.path === path ? file.earlier : await records.get(path)
      const holdsSeveral = file?.path === path && file.holdsSeveral
      const note = { source: path, stamp: event.stamp, reading }
      if (event.documents > 0 && !holdsSeveral) await adder.annotate(path, note)
      else if (event.documents > 0 || earlier !== undefined)
        await adder.conclude({ ...fileEntry(path, { ...note, several: true }), contentHash: event.stamp.sha256 })
      if (earlier?.note.several === true) await removeEarlier(path, run, options)
      file = undefined
    } else if (kind === 'unchanged') {
      counts.unchanged++
      const entry = await records.get(path)
      adder.counts.unchanged += entry?.chunks ?? 0
      adder.counts.passages += entry?.chunks ?? 0
      if (entry !== undefined) await adder.annotate(path, { ...entry.note, stamp: event.stamp })
    } else if (kind === 'problem') complain(event)
    else {
      counts[kind]++
      if (kind === 'failed') complain(event)
    }
    onEvent?.(event)
  }
  return { ...counts, problems }
}

/** Removes what a file held when it was read before, and holds no more. */
async function removeEarlier(path: string, run: string, { adder, store }: FilesOptions): Promise<void> {
  await adder.finish()
  const gone: string[] = []
  for await (const record of store()?.documents() ?? []) {
    const { documentId, note } = entryOf(record)
    if (note.source === path && documentId !== path && note.run !== run) gone.push(documentId)
  }
  if (gone.length > 0) await store()?.remove(gone)
}

const fileEntry = (path: string, note: Entry['note']): Entry => ({
  documentId: path,
  contentHash: 'several',
  chunks: 0,
  note,
})

/** Hash of how a file is read and cut: what is read otherwise is not the same. */
function readingHash({ reading, settings }: FilesOptions): string {
  const { reader, fields, delimiter } = reading
  return hashOf([settings, reader ?? null, fields ?? null, delimiter ?? null]).slice(0, 16)
}

function documentOf({ id, text, title, headings, pages, lines, metadata }: SourceDocument): KnowledgeDocument {
  const titled = title === undefined || metadata.title !== undefined ? metadata : { ...metadata, title }
  return { id, text, headings, pages, lines, metadata: titled, ...(title === undefined ? {} : { title }) }
}

/**
 * All documents of files, folders, globs, `-` and web addresses, at once.
 * @throws ClaraError when one is named twice, cannot be read, or has no text.
 */
export async function readDocuments(
  inputs: readonly string[],
  options: Omit<IngestOptions, 'known'> = {},
): Promise<KnowledgeDocument[]> {
  const twice = inputs.find((path, index) => inputs.indexOf(path) !== index)
  if (twice !== undefined) throw new ClaraError(`"${twice}" is named twice.`, { hint: 'Name every file once.' })
  const documents: KnowledgeDocument[] = []
  for await (const event of ingest(inputs, options)) {
    if (event.kind === 'document') documents.push(documentOf(event.document))
    else if (event.kind === 'failed') throw event.error
    else if (event.kind === 'problem') throw new ClaraError(`"${event.path}": ${event.reason}`)
    else if (event.kind === 'read' && event.documents === 0 && inputs.includes(event.path))
      throw new ClaraError(`"${event.path}" is empty.`, { hint: 'Leave it out.' })
  }
  return documents
}

import { z } from 'zod'
import type { DocumentRecord, JsonValue, Store } from '../store/store.ts'

/*
 * A document's record is written before its first passage, saying that it is incomplete, and again after its last. So whatever was written belongs to a
 * known document, even after the process was killed, and an interrupted document is known to be one.
 */

/** What tells a changed file from an unchanged one; see the ingestion's Stamp. */
const stampSchema = z.object({ size: z.number(), mtimeMs: z.number(), sha256: z.string() })

/** What a knowledge base notes of a document. */
const noteSchema = z.object({
  /** Passages are still missing: the next add of the document completes it. */
  incomplete: z.literal(true).exactOptional(),
  /** The file that it was read from: a path, a web address, or `-`. */
  source: z.string().exactOptional(),
  /** The file as it was read; on the record of the file's own path alone. */
  stamp: stampSchema.exactOptional(),
  /** Hash of how the file was read and cut: read otherwise, it is not the same. */
  reading: z.string().exactOptional(),
  /** Which reading of the file found this document; on the documents of a file that holds several. */
  run: z.string().exactOptional(),
  /** This is no document, but a file that holds several. */
  several: z.literal(true).exactOptional(),
})
export type Note = z.output<typeof noteSchema>

/** A record with its note. */
export interface Entry {
  readonly documentId: string
  readonly contentHash: string
  readonly chunks: number
  readonly note: Note
}

/** Of a document that is not complete; no hash is equal to it. */
const INCOMPLETE = 'incomplete'
/** Up to this many documents, all records are read at once instead of one by one. */
const MOST_HELD = 100_000

export function entryOf({ documentId, contentHash, chunks, details }: DocumentRecord): Entry {
  const parsed = noteSchema.safeParse(details)
  return { documentId, contentHash, chunks, note: parsed.success ? parsed.data : {} }
}

/** The record of a document that is about to be written; what was there of it stays until it is replaced. */
export function incompleteEntry(documentId: string, earlier: Entry | undefined, note: Note): Entry {
  return { documentId, contentHash: INCOMPLETE, chunks: earlier?.chunks ?? 0, note: { ...note, incomplete: true } }
}

/** The records of a store, each asked for at most once while one call adds. */
export interface Records {
  readonly get: (documentId: string) => Promise<Entry | undefined>
  readonly put: (entries: readonly Entry[]) => Promise<void>
}

/**
 * @param store The store, undefined while there is none.
 * @param ids The documents that will be asked for, where that is known.
 */
export async function openRecords(store: () => Store | undefined, ids?: readonly string[]): Promise<Records> {
  const held = new Map<string, Entry>()
  const present = store()
  const holdsAll = present === undefined || ids !== undefined || (await present.stats()).documents <= MOST_HELD
  if (holdsAll && present !== undefined) {
    for await (const record of present.documents(ids)) held.set(record.documentId, entryOf(record))
  }
  return {
    async get(documentId) {
      const entry = held.get(documentId)
      if (entry !== undefined || holdsAll) return entry
      for await (const record of store()?.documents([documentId]) ?? []) return entryOf(record)
      return undefined
    },
    async put(entries) {
      if (entries.length === 0) return
      await store()?.putDocuments(
        entries.map(({ documentId, contentHash, chunks, note }) => ({
          documentId,
          contentHash,
          chunks,
          details: note as JsonValue,
        })),
      )
      if (holdsAll) for (const entry of entries) held.set(entry.documentId, entry)
    },
  }
}

/** Documents as the user counts them, complete ones and others, and files that hold several. */
export async function countDocuments(
  store: Store,
): Promise<{ readonly documents: number; readonly incomplete: number; readonly files: number }> {
  let [documents, incomplete] = [0, 0]
  const files = new Set<string>()
  for await (const record of store.documents()) {
    const { note } = entryOf(record)
    if (note.source !== undefined && (note.stamp !== undefined || note.several === true)) files.add(note.source)
    if (note.several === true) continue
    if (note.incomplete === true) incomplete++
    else documents++
  }
  return { documents, incomplete, files: files.size }
}

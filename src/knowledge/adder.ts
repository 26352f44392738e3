import type { Memory } from '../clara/encoder.ts'
import type { ChunkOptions } from '../ingestion/chunk.ts'
import type { Store, StoreRow } from '../store/store.ts'
import { type CheckedDocument, documentHash, type Passage, passagesOf } from './chunks.ts'
import { type Entry, incompleteEntry, type Note, type Records } from './records.ts'

/** Where passages go. */
export interface AddTarget {
  /** Undefined while there is none. */
  readonly store: () => Store | undefined
  readonly compress: (texts: readonly string[]) => Promise<readonly Memory[]>
  /** Makes the store; `first` are the memories that fix how retrieval vectors are centred. */
  readonly create: (first: readonly Memory[]) => Promise<Store>
  readonly row: (passage: Passage, memory: Memory) => StoreRow
  readonly fingerprint: string
}

export interface AdderOptions {
  readonly target: AddTarget
  readonly records: Records
  readonly chunking: ChunkOptions
  /** What else decides a document's passages: a document whose hash with it is there already is left alone. */
  readonly settings: string
  readonly signal: AbortSignal | undefined
  readonly onProgress: (() => void) | undefined
}

/** Takes documents one by one, as fast as they are compressed, and holds no more than a window of their passages. */
export interface Adder {
  readonly counts: { documents: number; passages: number; compressed: number; unchanged: number }
  /** Adds a document; one of the same id that is still waiting is dropped. */
  offer(document: CheckedDocument, note: Note): Promise<void>
  /** Puts a record before the passages of documents that are offered afterwards. */
  begin(entry: Entry): void
  /** Puts a record as soon as all documents that were offered before are completely stored. */
  conclude(entry: Entry): Promise<void>
  /** Gives a document that was offered another note. */
  annotate(documentId: string, note: Note): Promise<void>
  /** Stores all that is still waiting. */
  finish(): Promise<void>
}

/** Passages that are gathered, so that those of like length are compressed together. */
const WINDOW = 256
/** Passages that are compressed and written at a time: an interruption can lose two such batches. */
const BATCH = 32
/** Records that may wait. */
const MOST_RECORDS = 1_000

interface Work {
  readonly documentId: string
  readonly contentHash: string
  readonly earlier: Entry | undefined
  note: Note
  chunks: number
  /** Its record says that it is incomplete. */
  isBegun: boolean
  /** All of its passages have been gathered. */
  isWhole: boolean
}

export function createAdder({ target, records, chunking, settings, signal, onProgress }: AdderOptions): Adder {
  const counts = { documents: 0, passages: 0, compressed: 0, unchanged: 0 }
  const works = new Map<string, Work>()
  let window: { readonly passage: Passage; readonly work: Work }[] = []
  const before = new Map<string, Entry>()
  const after = new Map<string, Entry>()

  async function flush(): Promise<void> {
    const taken = window
    window = []
    const store = target.store()
    const hashes = store && taken.length > 0 ? await store.contentHashes(taken.map(({ passage }) => passage.id)) : []
    const missing = taken.filter(({ passage }, index) => hashes[index] !== passage.contentHash)
    counts.unchanged += taken.length - missing.length
    if (missing.length < taken.length) onProgress?.()
    await write(missing)
    const whole = [...works.values()].filter(({ isWhole }) => isWhole)
    for (const { documentId } of whole) works.delete(documentId)
    const entries = [
      ...whole.map(({ documentId, contentHash, chunks, note }) => ({ documentId, contentHash, chunks, note })),
      ...after.values(),
    ]
    after.clear()
    await records.put(entries)
  }

  async function write(missing: readonly (typeof window)[number][]): Promise<void> {
    const begun = new Set(missing.map(({ work }) => work))
    const batches = batchesOf(missing, target.store() === undefined)
    if (batches.length === 0) return
    // what a batch needs is written while the next one is compressed, so that nothing that was compressed is lost
    let writing = target.store() === undefined ? Promise.resolve() : markIncomplete(begun)
    try {
      for (const batch of batches) {
        // looked at before the next write, or at the end
        writing.catch(() => {})
        signal?.throwIfAborted()
        const memories = await target.compress(batch.map(({ passage }) => passage.text))
        let store = target.store()
        if (store === undefined) {
          store = await target.create(memories)
          writing = markIncomplete(begun)
        }
        await writing
        writing = writeBatch(store, batch, memories)
      }
    } finally {
      await writing
    }
  }

  /** Says of documents that they are incomplete, before their first passage is written. */
  async function markIncomplete(works: ReadonlySet<Work>): Promise<void> {
    await records.put([...before.values(), ...[...works].flatMap((work) => incompleteOf(work))])
    before.clear()
    for (const work of works) work.isBegun = true
  }

  async function writeBatch(store: Store, batch: typeof window, memories: readonly Memory[]): Promise<void> {
    const rows = batch.flatMap(({ passage }, place) => {
      const memory = memories[place]
      return memory ? [target.row(passage, memory)] : []
    })
    await store.add(rows, { fingerprint: target.fingerprint })
    counts.compressed += rows.length
    onProgress?.()
  }

  function incompleteOf({ documentId, earlier, note, isBegun }: Work): Entry[] {
    // known to be incomplete already: passages that were written since must stay
    if (isBegun || earlier?.note.incomplete === true) return []
    return [incompleteEntry(documentId, earlier, note)]
  }

  async function conclude(entry: Entry): Promise<void> {
    before.delete(entry.documentId)
    after.set(entry.documentId, entry)
    if (after.size >= MOST_RECORDS) await flush()
  }

  return {
    counts,
    conclude,
    async offer(document, note) {
      const { id } = document
      const contentHash = documentHash(document, settings)
      const waiting = works.get(id)
      if (waiting !== undefined) {
        window = window.filter(({ work }) => work !== waiting)
        works.delete(id)
      }
      const earlier = await records.get(id)
      counts.documents++
      if (earlier?.contentHash === contentHash) {
        counts.passages += earlier.chunks
        counts.unchanged += earlier.chunks
        onProgress?.()
        if (!sameNote(earlier.note, note)) await conclude({ ...earlier, note })
        return
      }
      const work: Work = { documentId: id, contentHash, earlier, note, chunks: 0, isBegun: false, isWhole: false }
      works.set(id, work)
      for (const passage of passagesOf(document, { ...chunking, settings })) {
        work.chunks++
        counts.passages++
        window.push({ passage, work })
        if (window.length >= WINDOW) await flush()
      }
      work.isWhole = true
      if (works.size >= MOST_RECORDS) await flush()
    },
    begin(entry) {
      before.set(entry.documentId, entry)
    },
    async annotate(documentId, note) {
      const work = works.get(documentId)
      if (work !== undefined) {
        work.note = note
        return
      }
      const entry = after.get(documentId) ?? (await records.get(documentId))
      if (entry !== undefined && !sameNote(entry.note, note)) await conclude({ ...entry, note })
    },
    finish: flush,
  }
}

/**
 * Passages of like length together. `spread`: the first batch is taken from all over the window instead, since what all memories have in
 * common is learned from it.
 */
function batchesOf<Item extends { readonly passage: Passage }>(items: readonly Item[], spread: boolean): Item[][] {
  const step = spread ? Math.ceil(items.length / BATCH) : 0
  const first = spread ? items.filter((_, index) => index % step === 0) : []
  const rest = spread ? items.filter((_, index) => index % step !== 0) : [...items]
  rest.sort((one, other) => one.passage.text.length - other.passage.text.length)
  const batches = first.length > 0 ? [first] : []
  for (let start = 0; start < rest.length; start += BATCH) batches.push(rest.slice(start, start + BATCH))
  return batches
}

const sameNote = (one: Note, other: Note) => noteText(one) === noteText(other)
const noteText = (note: Note) => JSON.stringify(Object.entries(note).sort(([a], [b]) => (a < b ? -1 : 1)))

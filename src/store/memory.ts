import { ClaraError } from '../errors.ts'
import { inverseFrequency, wordScore } from './bm25.ts'
import { encodeMemory, rowChecksum } from './codec.ts'
import { Findings } from './damage.ts'
import { checkFilter, matchesFilter } from './filter.ts'
import { maxSimilarity } from './late/similarity.ts'
import { dequantiseMemory } from './quantise.ts'
import { checkAdd, checkMemorySearch, checkSearch, checkTextSearch } from './requests.ts'
import { SCHEMA_VERSION } from './schema.ts'
import type {
  AddOutcome,
  Candidate,
  DocumentRecord,
  Float32Memory,
  RowFilter,
  Store,
  StoreDescription,
  StoredMemory,
  StoreRow,
  StoreStats,
  TextSearchOptions,
  VectorSearchOptions,
  Verification,
} from './store.ts'
import { checkDescription, checkRecords } from './validation.ts'
import { dot, unitVector } from './vector.ts'
import { wordsOf } from './words.ts'

interface Entry {
  /** Its vector has length 1, so that a dot product with a unit query is the cosine. */
  readonly row: StoreRow
  readonly checksum: string
  /** How often it holds each of its words, and how many words it has in all. */
  readonly counts: ReadonlyMap<string, number>
  readonly length: number
}

/**
 * A store in this process's memory, gone when it ends: for tests, demos and pools of up to some 10⁵ rows. The search
 * is exact: it compares the query with every row.
 *
 * @throws ClaraError if the description is malformed.
 */
export async function openInMemoryStore(description: StoreDescription): Promise<Store> {
  checkDescription(description)
  return new InMemoryStore(description)
}

class InMemoryStore implements Store {
  readonly description: StoreDescription
  readonly #entries = new Map<string, Entry>()
  readonly #records = new Map<string, DocumentRecord>()
  /** The ids of each document's rows. */
  readonly #rowsOf = new Map<string, Set<string>>()
  /** Which rows hold a word. */
  readonly #holders = new Map<string, Set<string>>()
  #length = 0
  #closed = false

  constructor(description: StoreDescription) {
    this.description = structuredClone(description)
  }

  async add(rows: readonly StoreRow[], options: { readonly fingerprint: string }): Promise<AddOutcome> {
    this.#checkOpen()
    checkAdd(rows, options, this.description)
    const outcome = { added: 0, replaced: 0, unchanged: 0 }
    for (const row of rows) {
      const present = this.#entries.get(row.id)
      if (present?.row.contentHash === row.contentHash) {
        outcome.unchanged++
        continue
      }
      if (present !== undefined) this.#delete(present)
      this.#insert(entryOf(row))
      if (present === undefined) outcome.added++
      else outcome.replaced++
    }
    return outcome
  }

  async get(ids: readonly string[]): Promise<(StoreRow | undefined)[]> {
    this.#checkOpen()
    return ids.map((id) => {
      const entry = this.#entries.get(id)
      return entry && copyRow(entry.row)
    })
  }

  async memories(ids: readonly string[]): Promise<(StoredMemory | undefined)[]> {
    this.#checkOpen()
    return ids.map((id) => {
      const entry = this.#entries.get(id)
      return entry && copyMemory(entry.row.memory)
    })
  }

  async contentHashes(ids: readonly string[]): Promise<(string | undefined)[]> {
    this.#checkOpen()
    return ids.map((id) => this.#entries.get(id)?.row.contentHash)
  }

  async putDocuments(records: readonly DocumentRecord[]): Promise<void> {
    this.#checkOpen()
    checkRecords(records)
    for (const record of new Map(records.map((one) => [one.documentId, one])).values()) {
      this.#records.set(record.documentId, structuredClone(record))
      for (const entry of this.#document(record.documentId)) if (entry.row.chunk >= record.chunks) this.#delete(entry)
    }
  }

  async *documents(ids?: readonly string[]): AsyncGenerator<DocumentRecord> {
    this.#checkOpen()
    const wanted = ids && new Set(ids)
    for (const record of [...this.#records.values()]) {
      if (wanted === undefined || wanted.has(record.documentId)) yield structuredClone(record)
    }
  }

  async remove(documentIds: readonly string[]): Promise<number> {
    this.#checkOpen()
    let removed = 0
    for (const documentId of documentIds) {
      this.#records.delete(documentId)
      for (const entry of this.#document(documentId)) {
        this.#delete(entry)
        removed++
      }
    }
    return removed
  }

  async count(filter?: RowFilter): Promise<number> {
    this.#checkOpen()
    checkFilter(filter)
    let count = 0
    for (const { row } of this.#entries.values()) if (matchesFilter(row, filter)) count++
    return count
  }

  async search(vector: Float32Array, options: VectorSearchOptions): Promise<Candidate[]> {
    this.#checkOpen()
    checkSearch(vector, options, this.description)
    const query = unitVector(vector)
    const candidates: Candidate[] = []
    for (const { row } of this.#entries.values()) {
      if (!matchesFilter(row, options.filter)) continue
      const score = Math.max(-1, Math.min(1, dot(query, row.vector)))
      candidates.push({ id: row.id, documentId: row.documentId, score })
    }
    return best(candidates, options.limit)
  }

  async searchMemory(query: Float32Memory, options: VectorSearchOptions): Promise<Candidate[]> {
    this.#checkOpen()
    checkMemorySearch(query, options, this.description)
    const candidates: Candidate[] = []
    for (const { row } of this.#entries.values()) {
      if (!matchesFilter(row, options.filter)) continue
      const score = maxSimilarity(query.tokens, dequantiseMemory(row.memory).tokens, query.width)
      candidates.push({ id: row.id, documentId: row.documentId, score })
    }
    return best(candidates, options.limit)
  }

  async searchText(query: string, options: TextSearchOptions): Promise<Candidate[]> {
    this.#checkOpen()
    checkTextSearch(options)
    const scores = new Map<string, number>()
    const mean = this.#length / this.#entries.size
    for (const word of new Set(wordsOf(query))) {
      const holders = this.#holders.get(word) ?? new Set()
      const idf = inverseFrequency(this.#entries.size, holders.size)
      for (const id of holders) {
        const entry = this.#entries.get(id)
        if (entry === undefined || !matchesFilter(entry.row, options.filter)) continue
        const score = wordScore(idf, entry.counts.get(word) ?? 0, entry.length / mean)
        scores.set(id, (scores.get(id) ?? 0) + score)
      }
    }
    const candidates = [...scores].map(([id, score]) => ({
      id,
      documentId: this.#entries.get(id)?.row.documentId ?? '',
      score,
    }))
    return best(candidates, options.limit)
  }

  async *iterate(filter?: RowFilter): AsyncGenerator<StoreRow> {
    this.#checkOpen()
    checkFilter(filter)
    for (const { row } of [...this.#entries.values()]) {
      this.#checkOpen()
      if (matchesFilter(row, filter)) yield copyRow(row)
    }
  }

  async stats(): Promise<StoreStats> {
    this.#checkOpen()
    let bytes = 0
    for (const { row } of this.#entries.values()) {
      bytes += row.memory.tokens.byteLength + row.vector.byteLength + 2 * row.text.length
      if (row.memory.dtype === 'int8') bytes += row.memory.scales.byteLength
    }
    return {
      driver: 'memory',
      schemaVersion: SCHEMA_VERSION,
      documents: this.#records.size,
      chunks: this.#entries.size,
      bytes,
      index: { kind: 'exact', unindexed: 0 },
    }
  }

  async compact(): Promise<void> {
    this.#checkOpen()
  }

  async verify({ repair = false }: { readonly repair?: boolean } = {}): Promise<Verification> {
    this.#checkOpen()
    const findings = new Findings()
    const lost: Entry[] = []
    for (const entry of this.#entries.values()) {
      const { row, checksum } = entry
      findings.rows++
      findings.isRepeated(row)
      if (checksumOf(row) === checksum) continue
      findings.report({ id: row.id, documentId: row.documentId, problem: 'its checksum differs' })
      lost.push(entry)
    }
    for (const record of this.#records.values()) findings.checkRecord(record, true)
    if (repair) {
      for (const entry of lost) this.#delete(entry)
      for (const documentId of findings.documents) this.#records.delete(documentId)
    }
    return findings.verification
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#entries.clear()
    this.#records.clear()
    this.#rowsOf.clear()
    this.#holders.clear()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  #document(documentId: string): Entry[] {
    const ids = [...(this.#rowsOf.get(documentId) ?? [])]
    return ids.map((id) => this.#entries.get(id)).filter((entry) => entry !== undefined)
  }

  #insert(entry: Entry): void {
    const { id, documentId } = entry.row
    this.#entries.set(id, entry)
    this.#rowsOf.set(documentId, (this.#rowsOf.get(documentId) ?? new Set()).add(id))
    this.#length += entry.length
    for (const word of entry.counts.keys()) {
      const holders = this.#holders.get(word) ?? new Set()
      holders.add(id)
      this.#holders.set(word, holders)
    }
  }

  #delete(entry: Entry): void {
    const { id, documentId } = entry.row
    this.#entries.delete(id)
    this.#rowsOf.get(documentId)?.delete(id)
    if (this.#rowsOf.get(documentId)?.size === 0) this.#rowsOf.delete(documentId)
    this.#length -= entry.length
    for (const word of entry.counts.keys()) {
      const holders = this.#holders.get(word)
      holders?.delete(id)
      if (holders?.size === 0) this.#holders.delete(word)
    }
  }

  #checkOpen(): void {
    if (this.#closed) throw new ClaraError('The store is closed.', { hint: 'Open it again.' })
  }
}

function entryOf(given: StoreRow): Entry {
  const row = { ...copyRow(given), vector: unitVector(given.vector) }
  const words = wordsOf(row.text)
  const counts = new Map<string, number>()
  for (const word of words) counts.set(word, (counts.get(word) ?? 0) + 1)
  return { row, checksum: checksumOf(row), counts, length: words.length }
}

function checksumOf(row: StoreRow): string {
  return rowChecksum({ ...row, memory: encodeMemory(row.memory) })
}

function best(candidates: Candidate[], limit: number): Candidate[] {
  return candidates.sort((a, b) => b.score - a.score || (a.id < b.id ? -1 : 1)).slice(0, limit)
}

/** Rows are copied in and out: callers transfer arrays to worker threads, which empties the caller's array. */
function copyRow(row: StoreRow): StoreRow {
  const { id, documentId, chunk, text, contentHash } = row
  const metadata = structuredClone(row.metadata)
  return {
    id,
    documentId,
    chunk,
    text,
    metadata,
    contentHash,
    memory: copyMemory(row.memory),
    vector: row.vector.slice(),
  }
}

function copyMemory(memory: StoredMemory): StoredMemory {
  const { n, width } = memory
  if (memory.dtype === 'float32') return { dtype: 'float32', tokens: memory.tokens.slice(), n, width }
  if (memory.dtype === 'float16') return { dtype: 'float16', tokens: memory.tokens.slice(), n, width }
  return { dtype: 'int8', tokens: memory.tokens.slice(), scales: memory.scales.slice(), n, width }
}

import { ClaraError } from '../errors.ts'
import type {
  AddOutcome,
  Candidate,
  RowFilter,
  SearchOptions,
  Store,
  StoreDescription,
  StoredMemory,
  StoreRow,
} from './store.ts'
import { checkDescription, checkFingerprint, checkLimit, checkRows, checkVector, matchesFilter } from './validation.ts'

interface Entry {
  readonly row: StoreRow
  /** The row's vector at length 1, so that a dot product with a unit query is the cosine. */
  readonly direction: Float32Array
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
  #closed = false

  constructor(description: StoreDescription) {
    this.description = { ...description }
  }

  async add(rows: readonly StoreRow[], options: { readonly fingerprint: string }): Promise<AddOutcome> {
    this.#checkOpen()
    checkFingerprint('A row to add', options.fingerprint, this.description)
    checkRows(rows, this.description)
    const outcome = { added: 0, replaced: 0, unchanged: 0 }
    for (const row of rows) {
      const present = this.#entries.get(row.id)
      if (present?.row.contentHash === row.contentHash) {
        outcome.unchanged++
        continue
      }
      this.#entries.set(row.id, { row: copyRow(row), direction: unitVector(row.vector) })
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

  async remove(documentIds: readonly string[]): Promise<number> {
    this.#checkOpen()
    const documents = new Set(documentIds)
    let removed = 0
    for (const [id, { row }] of this.#entries) {
      if (documents.has(row.documentId) && this.#entries.delete(id)) removed++
    }
    return removed
  }

  async count(filter?: RowFilter): Promise<number> {
    this.#checkOpen()
    let count = 0
    for (const { row } of this.#entries.values()) if (matchesFilter(row, filter)) count++
    return count
  }

  async search(vector: Float32Array, options: SearchOptions): Promise<Candidate[]> {
    this.#checkOpen()
    checkFingerprint('The query', options.fingerprint, this.description)
    checkVector('The query vector', vector, this.description)
    checkLimit(options.limit)
    const query = unitVector(vector)
    const candidates: Candidate[] = []
    for (const { row, direction } of this.#entries.values()) {
      if (!matchesFilter(row, options.filter)) continue
      const score = Math.max(-1, Math.min(1, dot(query, direction)))
      candidates.push({ id: row.id, documentId: row.documentId, score })
    }
    candidates.sort((a, b) => b.score - a.score || (a.id < b.id ? -1 : 1))
    return candidates.slice(0, options.limit)
  }

  async *iterate(filter?: RowFilter): AsyncGenerator<StoreRow> {
    this.#checkOpen()
    for (const { row } of [...this.#entries.values()]) {
      this.#checkOpen()
      if (matchesFilter(row, filter)) yield copyRow(row)
    }
  }

  async close(): Promise<void> {
    this.#closed = true
    this.#entries.clear()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  #checkOpen(): void {
    if (this.#closed) throw new ClaraError('The store is closed.', { hint: 'Open it again.' })
  }
}

/** Rows are copied in and out: callers transfer arrays to worker threads, which empties the caller's array. */
function copyRow(row: StoreRow): StoreRow {
  return {
    ...row,
    metadata: structuredClone(row.metadata),
    memory: copyMemory(row.memory),
    vector: row.vector.slice(),
  }
}

function copyMemory(memory: StoredMemory): StoredMemory {
  if (memory.dtype === 'float32') return { ...memory, tokens: memory.tokens.slice() }
  return { ...memory, tokens: memory.tokens.slice(), scales: memory.scales.slice() }
}

function unitVector(vector: Float32Array): Float32Array {
  // Divided by the largest number first: squares of tiny or huge numbers would leave the range.
  const largest = vector.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
  const scaled = Float64Array.from(vector, (value) => value / largest)
  const length = Math.sqrt(scaled.reduce((sum, value) => sum + value * value, 0))
  return Float32Array.from(scaled, (value) => value / length)
}

function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0
  for (let index = 0; index < a.length; index++) sum += (a[index] ?? 0) * (b[index] ?? 0)
  return sum
}

/*
 * The memory store keeps compressed passages: for each its text, its memory tokens and one compact retrieval vector.
 * It sees typed arrays and a fingerprint, never a model. Retrieval is two steps: `search` finds candidates by the compact
 * vector, and the caller scores the candidates' memory (`get`) with the model's own similarity.
 */

/** A value that survives a JSON file and every database's JSON column. */
export type JsonValue = string | number | boolean | null | readonly JsonValue[] | { readonly [key: string]: JsonValue }

/** Memory tokens at full precision, row-major [n, width]. */
export interface Float32Memory {
  readonly dtype: 'float32'
  readonly tokens: Float32Array
  /** Number of memory tokens; may differ between rows. */
  readonly n: number
  /** Numbers per token: the model's hidden size. */
  readonly width: number
}

/** Memory tokens as int8, row-major [n, width]; token i is `tokens[i] * scales[i]`. */
export interface Int8Memory {
  readonly dtype: 'int8'
  readonly tokens: Int8Array
  /** One positive scale per token, or 0 for a token of zeros; length n. */
  readonly scales: Float32Array
  readonly n: number
  readonly width: number
}

export type StoredMemory = Float32Memory | Int8Memory

/** One compressed passage. */
export interface StoreRow {
  /** Unique in the store. */
  readonly id: string
  /** The document that the passage was cut from; `remove` works by document. */
  readonly documentId: string
  /** The passage's place in its document, from 0. */
  readonly chunk: number
  readonly text: string
  readonly metadata: Readonly<Record<string, JsonValue>>
  /** Hash of all that the row was made from (text, metadata, compression settings): a row whose hash is unchanged is not written again. */
  readonly contentHash: string
  readonly memory: StoredMemory
  /** The compact retrieval vector; any length but zero, since only its direction counts. */
  readonly vector: Float32Array
}

/** What is fixed for the whole life of a store. */
export interface StoreDescription {
  /** Identifies the model that wrote the memory. Another model's rows and queries are refused. */
  readonly fingerprint: string
  /** Width of every memory token. */
  readonly memoryWidth: number
  /** Length of every retrieval vector. */
  readonly vectorWidth: number
}

/** Which rows to consider; all given conditions must hold. Plain data, so that a driver can translate it to its query language. */
export interface RowFilter {
  /** The row belongs to one of these documents. */
  readonly documentIds?: readonly string[]
  /** The row's metadata has exactly this value under each key (top level, scalar). */
  readonly metadata?: Readonly<Record<string, string | number | boolean | null>>
}

export interface SearchOptions {
  /** Fingerprint of the model that made the query. */
  readonly fingerprint: string
  /** The most candidates to return; more than the store holds is fine. */
  readonly limit: number
  readonly filter?: RowFilter
}

/** A row found by its vector; `get` brings the row itself. */
export interface Candidate {
  readonly id: string
  readonly documentId: string
  /** Cosine of the query's and the row's vector, in [-1, 1]. */
  readonly score: number
}

/** How many of the given rows were new, written over an older content, or already there. */
export interface AddOutcome {
  readonly added: number
  readonly replaced: number
  readonly unchanged: number
}

/** What every driver implements; `test/store/conformance.ts` says the same in tests. */
export interface Store extends AsyncDisposable {
  readonly description: StoreDescription
  /**
   * Writes rows. A row whose id and content hash are already there is left alone; the same id with another hash is
   * replaced. All rows are checked before the first is written.
   *
   * @throws ClaraError if the fingerprint is another model's, a row is malformed, or one id comes twice with different hashes.
   */
  add(rows: readonly StoreRow[], options: { readonly fingerprint: string }): Promise<AddOutcome>
  /** The rows with these ids, in the order of the ids; undefined where there is none. */
  get(ids: readonly string[]): Promise<(StoreRow | undefined)[]>
  /** Removes all rows of these documents; returns how many. Unknown documents are no error. */
  remove(documentIds: readonly string[]): Promise<number>
  /** Number of rows, or of those that pass the filter. */
  count(filter?: RowFilter): Promise<number>
  /**
   * The rows whose vectors point most nearly the same way as the query's, best first, equal scores by id. A driver may
   * search approximately.
   *
   * @throws ClaraError if the fingerprint is another model's, or the vector or the limit is malformed.
   */
  search(vector: Float32Array, options: SearchOptions): Promise<Candidate[]>
  /** Every row that passes the filter, once, in no particular order; rows written meanwhile may or may not appear. */
  iterate(filter?: RowFilter): AsyncIterable<StoreRow>
  /** Releases what the driver holds; any later call but `close` fails. */
  close(): Promise<void>
}

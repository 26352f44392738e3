/*
 * The memory store keeps compressed passages: for each its text, its memory tokens and one compact retrieval vector.
 * It sees typed arrays and a fingerprint, never a model. Retrieval is two steps: `searchMemory` (by late interaction) or `search` (by the compact vector), and
 * `searchText` (by words) find candidates, and the caller scores the candidates' memory with the model's own similarity.
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

/** Memory tokens at half precision (IEEE 754 binary16), row-major [n, width]. */
export interface Float16Memory {
  readonly dtype: 'float16'
  /** The raw 16 bits of each number. */
  readonly tokens: Uint16Array
  readonly n: number
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

export type StoredMemory = Float32Memory | Float16Memory | Int8Memory

/** One compressed passage. Its strings are well-formed Unicode: a lone surrogate has no place in a file or a database. */
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
  /**
   * The compact retrieval vector. Only its direction is kept: any length but zero goes in, length 1 comes out. Without any numbers where the store keeps
   * none.
   */
  readonly vector: Float32Array
}

/** Says that a document is completely stored: written after its rows, so that its presence means that nothing is missing. */
export interface DocumentRecord {
  readonly documentId: string
  /** Hash of the whole document and of all that decides how it is cut and compressed: whether it changed is seen without its passages. */
  readonly contentHash: string
  /** How many rows it has, numbered from 0; none is allowed. */
  readonly chunks: number
  /** The caller's own, such as the file's path, size and time. */
  readonly details: JsonValue
}

/** What is fixed for the whole life of a store. */
export interface StoreDescription {
  /** Identifies the model that wrote the memory. Another model's rows and queries are refused. */
  readonly fingerprint: string
  /** Width of every memory token. */
  readonly memoryWidth: number
  /** Length of every retrieval vector; 0 in a store that keeps none, and finds by the memory itself. */
  readonly vectorWidth: number
  /** The caller's own, kept with the store from its creation on: how retrieval vectors are made (seed, centre) and the like. */
  readonly details?: JsonValue
}

/** A value that a filter can ask for. */
export type Scalar = string | number | boolean | null

/** Conditions on one metadata value; all given ones must hold, and a value of another type, a list or an object meets none. */
export interface Condition {
  /** It is one of these. */
  readonly in?: readonly Scalar[]
  /** Greater than, at least, less than, at most: numbers among numbers, strings of at most 1,024 bytes among strings, by code point. */
  readonly gt?: number | string
  readonly gte?: number | string
  readonly lt?: number | string
  readonly lte?: number | string
}

/** Which rows to consider; all given conditions must hold. Plain data, which a driver translates into its query language. */
export interface RowFilter {
  /** The row belongs to one of these documents. */
  readonly documentIds?: readonly string[]
  /** The row's metadata has exactly this value, or meets these conditions, under each key (top level). */
  readonly metadata?: Readonly<Record<string, Scalar | Condition>>
  /** Each of these holds. */
  readonly and?: readonly RowFilter[]
  /** At least one of these holds. */
  readonly or?: readonly RowFilter[]
  /** This does not hold. */
  readonly not?: RowFilter
}

/** How {@link Store.search} and {@link Store.searchMemory} look. */
export interface VectorSearchOptions {
  /** Fingerprint of the model that made the query. */
  readonly fingerprint: string
  /** The most candidates to return; more than the store holds is fine. */
  readonly limit: number
  readonly filter?: RowFilter
  /** Look at every row, though there be an index. Default: false. */
  readonly exact?: boolean
}

export interface TextSearchOptions {
  /** The most candidates to return; more than the store holds is fine. */
  readonly limit: number
  readonly filter?: RowFilter
}

/** A row that a search found; `get` brings the row itself, `memories` its memory alone. */
export interface Candidate {
  readonly id: string
  readonly documentId: string
  /**
   * `search`: cosine of the query's and the row's vector, in [-1, 1]. `searchMemory`: the mean, over the query's tokens, of the best cosine with a token of
   * the row. `searchText`: BM25, above 0.
   */
  readonly score: number
}

/** How many of the given rows were new, written over an older content, or already there. */
export interface AddOutcome {
  readonly added: number
  readonly replaced: number
  readonly unchanged: number
}

export interface StoreStats {
  /** Which driver keeps the store. */
  readonly driver: 'memory' | 'lancedb' | 'postgresql'
  readonly schemaVersion: number
  /** Completely stored documents. */
  readonly documents: number
  /** Rows. */
  readonly chunks: number
  /** Bytes that the store takes where it lies, indexes and what is not yet cleaned up included. */
  readonly bytes: number
  readonly index: {
    /** How `search` finds: by comparing with every row, or through an approximate index. */
    readonly kind: 'exact' | 'approximate'
    /** Rows that the index does not hold yet; they are compared one by one. */
    readonly unindexed: number
    /** Why the last attempt to build or refresh it in the background failed. */
    readonly problem?: string
  }
}

/** Something that `verify` found. */
export interface Damage {
  /** The row, where it could be read or told from its document. */
  readonly id?: string
  readonly documentId?: string
  readonly problem: string
}

export interface Verification {
  /** Rows that were read. */
  readonly rows: number
  /** Nothing, when the store is sound. At most 10,000 are named. */
  readonly damaged: readonly Damage[]
}

/**
 * What every driver implements; `test/store/conformance.ts` says the same in tests.
 *
 * Every call that writes is all or nothing, survives the end of the process once its promise is fulfilled, and excludes other writers, those of
 * other processes too: a second one waits, and fails with an error that names the holder when it waits too long. Readers wait for
 * nobody, and each call sees the store as one moment left it.
 */
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
  /** The memory of the rows with these ids, in their order: less to read than whole rows. */
  memories(ids: readonly string[]): Promise<(StoredMemory | undefined)[]>
  /** The content hashes of the rows with these ids, in their order. */
  contentHashes(ids: readonly string[]): Promise<(string | undefined)[]>
  /**
   * Records that documents are completely stored. Rows of theirs numbered `chunks` or more, left from an older, longer text, are removed;
   * a record that was there is replaced. When one document comes more than once, its last record holds.
   */
  putDocuments(records: readonly DocumentRecord[]): Promise<void>
  /** The records of completely stored documents, or those of these ids, in no particular order. */
  documents(ids?: readonly string[]): AsyncIterable<DocumentRecord>
  /** Removes the records and all rows of these documents; returns how many rows. Unknown documents are no error. */
  remove(documentIds: readonly string[]): Promise<number>
  /** Number of rows, or of those that pass the filter. */
  count(filter?: RowFilter): Promise<number>
  /**
   * The rows whose vectors point most nearly the same way as the query's, best first, equal scores by id. A driver may
   * search approximately, unless `exact` is asked for.
   *
   * @throws ClaraError if the fingerprint is another model's, the vector, the limit or the filter is malformed, or the store keeps no vectors.
   */
  search(vector: Float32Array, options: VectorSearchOptions): Promise<Candidate[]>
  /**
   * The rows whose memory is nearest the query's by late interaction (Khattab and Zaharia 2020), best first. Which rows come
   * may be estimated, from codes of the tokens, and by looking at the more promising ones alone; their scores are exact. Absent where a driver finds by
   * vectors only.
   *
   * @param query Memory tokens of the question, of the store's width.
   * @throws ClaraError if the fingerprint is another model's, or the memory, the limit or the filter is malformed.
   */
  searchMemory?(query: Float32Memory, options: VectorSearchOptions): Promise<Candidate[]>
  /**
   * The rows that share words with the query, by BM25 (k1 1.2, b 0.75), best first; words are those of {@link wordsOf}. None when nothing
   * is shared. A driver may take its word statistics from a moment ago.
   *
   * @throws ClaraError if the limit or the filter is malformed.
   */
  searchText(query: string, options: TextSearchOptions): Promise<Candidate[]>
  /** Every row that passes the filter, once, in no particular order, as one moment left them, whatever is written meanwhile. */
  iterate(filter?: RowFilter): AsyncIterableIterator<StoreRow>
  stats(): Promise<StoreStats>
  /** Brings every index up to date, joins small files and gives back the space of what was replaced and removed. */
  compact(): Promise<void>
  /**
   * Reads everything, compares it with its checksums, and documents with their rows. With `repair`, also removes the damaged rows, and the records of
   * the documents named, so that adding these again writes what they lack; what is sound stays.
   */
  verify(options?: { readonly repair?: boolean }): Promise<Verification>
  /** Waits for work in the background and releases what the driver holds; any later call but `close` fails. */
  close(): Promise<void>
}

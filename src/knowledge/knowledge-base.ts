import type { Memory } from '../clara/encoder.ts'
import { ClaraError } from '../errors.ts'
import { exportStore } from '../store/parquet.ts'
import type { RowFilter, Store, StoreRow, Verification } from '../store/store.ts'
import { type Adder, createAdder } from './adder.ts'
import { answerFrom, lastOf } from './answer.ts'
import {
  checkAll,
  checkDocument,
  cuttingSettings,
  type KnowledgeDocument,
  type Passage,
  requireText,
} from './chunks.ts'
import { type ChatTurn, questionOf } from './conversation.ts'
import { expandCount } from './expand.ts'
import { addFilesTo } from './files.ts'
import type { KnowledgeModel } from './model.ts'
import { adopt, createStore, type Opened } from './opened.ts'
import type {
  Added,
  AddFilesOptions,
  AddOptions,
  AddProgress,
  Answer,
  AskOptions,
  ChatOptions,
  FilesAdded,
  KnowledgeBaseOptions,
  Synced,
} from './options.ts'
import { type MemoryKind, openStore, type Place, placeName } from './place.ts'
import { openRecords, type Records } from './records.ts'
import { removePaths } from './remove.ts'
import { checkSearchOptions, type Found, find, type SearchOptions, type Source } from './search.ts'
import { type KnowledgeStats, statsOf } from './stats.ts'
import { createSeen, removeGone } from './sync.ts'

/**
 * Documents compressed once, found and answered from in latent space (paper, section 3): passages are found by a compact vector and by
 * words, the candidates scored by the model itself, and the answer is generated from their stored memory.
 * Use it with `await using`, or close it.
 */
export class KnowledgeBase implements AsyncDisposable {
  readonly #clara: KnowledgeModel
  readonly #place: Place
  readonly #kind: MemoryKind
  /** Undefined until the first document is added: what its memories have in common fixes the retrieval vectors. */
  #opened: Opened | undefined
  #closed = false

  private constructor(clara: KnowledgeModel, place: Place, kind: MemoryKind) {
    this.#clara = clara
    this.#place = place
    this.#kind = kind
  }

  /**
   * Opens a knowledge base; one that does not exist is made when the first document is added.
   *
   * @param place A folder (LanceDB), or the address of a PostgreSQL database with pgvector, `postgres://…`, where `?schema=NAME` chooses among several.
   *   Without one it is in memory, and gone when the process ends.
   * @throws ClaraError when the store was written by another model or a newer version, is damaged, or cannot be reached.
   */
  static async open(options: KnowledgeBaseOptions): Promise<KnowledgeBase>
  static async open(place: string, options: KnowledgeBaseOptions): Promise<KnowledgeBase>
  static async open(first: string | KnowledgeBaseOptions, second?: KnowledgeBaseOptions): Promise<KnowledgeBase> {
    const options = typeof first === 'string' ? second : first
    if (options?.clara === undefined) {
      throw new ClaraError('A knowledge base needs a model.', { hint: 'KnowledgeBase.open(place, { clara }).' })
    }
    const place = typeof first === 'string' ? first : undefined
    const knowledge = new KnowledgeBase(options.clara, place, options.memory ?? 'int8')
    const store = await openStore(place)
    if (store === undefined) return knowledge
    try {
      knowledge.#opened = adopt(store, place, options.clara.model)
      const kept = knowledge.#opened.settings.memory
      if (options.memory !== undefined && options.memory !== kept) {
        throw new ClaraError(`The store ${JSON.stringify(placeName(place))} keeps memory as ${kept}.`, {
          received: options.memory,
          hint: 'Leave the option out, or add the documents to a new store.',
        })
      }
      return knowledge
    } catch (error) {
      await store.close()
      throw error
    }
  }

  /**
   * Adds documents: splits them into passages of at most doc_max_length tokens, compresses these and stores them, some hundred in memory at
   * a time. A document that is there already with the same text and metadata is left alone, one with another text
   * is replaced. When it is interrupted, what was stored stays, and adding the same again goes on from there.
   *
   * @param documents A list is checked before anything is stored; a stream as it comes, and of one id its last document holds.
   * @throws ClaraError when a document is malformed, has no text, or comes twice in a list.
   */
  async add(
    documents: readonly KnowledgeDocument[] | Iterable<KnowledgeDocument> | AsyncIterable<KnowledgeDocument>,
    options: AddOptions = {},
  ): Promise<Added> {
    const list = Array.isArray(documents) ? checkAll(documents) : undefined
    const { adder } = await this.#adder(
      options,
      list?.map(({ id }) => id),
      options.onProgress,
    )
    for await (const document of list ?? documents) await adder.offer(requireText(checkDocument(document)), {})
    await adder.finish()
    return addedBy(adder)
  }

  /**
   * Reads files, folders, globs, `-` (standard input) and web addresses, and adds what is in them. A document's id is its file's path as it was given
   * or found (a record's: the path, `#` and its own id or number). Files that have not changed since cost nothing, those that have replace
   * what was stored of them, and what cannot be read is reported in the result.
   * @throws ClaraError when the options are not right, or the store cannot be written.
   */
  async addFiles(inputs: readonly string[], options: AddFilesOptions = {}): Promise<FilesAdded> {
    return this.#addFiles(inputs, options)
  }

  /** As {@link addFiles}; then removes the documents of files below the inputs that are gone, or no longer to be read by the rules for folders. */
  async sync(inputs: readonly string[], options: AddFilesOptions = {}): Promise<Synced> {
    const seen = createSeen()
    const added = await this.#addFiles(inputs, options, seen)
    const store = this.#opened?.store
    if (store === undefined) return { ...added, removed: { documents: 0, chunks: 0 } }
    return removeGone(store, inputs, options, seen, added)
  }

  async #addFiles(inputs: readonly string[], options: AddFilesOptions, seen = createSeen()): Promise<FilesAdded> {
    const { signal, onProgress, overlap, context, ...reading } = options
    let [files, bytes] = [0, 0]
    const report = onProgress && ((progress: AddProgress) => onProgress({ ...progress, files, bytes }))
    const cutting = { ...(overlap === undefined ? {} : { overlap }), ...(context === undefined ? {} : { context }) }
    const { adder, records, settings, progress } = await this.#adder(
      { ...cutting, ...(signal ? { signal } : {}) },
      undefined,
      report,
    )
    const read = await addFilesTo(inputs, {
      adder,
      records,
      reading,
      settings,
      signal,
      store: () => this.#opened?.store,
      onEvent(event) {
        seen.note(event)
        if (event.kind === 'document' || event.kind === 'problem') return
        files++
        if ('stamp' in event) bytes += event.stamp.size
        report?.(progress())
      },
    })
    await adder.finish()
    return { ...addedBy(adder), files: read }
  }

  /** Finds the passages that fit a question best; none, when nothing qualifies. */
  async search(question: string, options: SearchOptions = {}): Promise<Source[]> {
    return (await this.#find(question, options)).map(({ source }) => source)
  }

  /** Answers a question from the passages that fit it best. */
  async ask(question: string, options: AskOptions = {}): Promise<Answer> {
    return lastOf(this.askStream(question, options))
  }

  /** Streams the answer, piece by piece; the generator's return value is the whole {@link Answer}. */
  async *askStream(question: string, options: AskOptions = {}): AsyncGenerator<string, Answer, undefined> {
    const started = performance.now()
    expandCount(options.expand ?? 0, [])
    const found = await this.#find(question, options)
    return yield* answerFrom(this.#clara, question, found, started, options)
  }

  /** Answers the question that a conversation ends with. */
  async chat(turns: readonly ChatTurn[], options: ChatOptions = {}): Promise<Answer> {
    return lastOf(this.chatStream(turns, options))
  }

  /** Streams the answer to the question that a conversation ends with, as {@link askStream}. */
  async *chatStream(turns: readonly ChatTurn[], options: ChatOptions = {}): AsyncGenerator<string, Answer, undefined> {
    const { history = 'pass', ...rest } = options
    return yield* this.askStream(await questionOf(turns, this.#clara, history, options.signal), rest)
  }

  /** Removes documents by id; returns the number of passages removed. Unknown ids are no error. */
  async remove(documentIds: readonly string[]): Promise<number> {
    this.#checkOpen()
    return (await this.#opened?.store.remove(documentIds)) ?? 0
  }

  /** Removes documents by id, by the file that they were read from, or by a folder that this lies in. */
  async removeFiles(paths: readonly string[]): Promise<{ readonly documents: number; readonly chunks: number }> {
    this.#checkOpen()
    const store = this.#opened?.store
    return store === undefined ? { documents: 0, chunks: 0 } : removePaths(store, paths)
  }

  /** Number of passages, or of those that pass the filter. */
  async count(filter?: RowFilter): Promise<number> {
    this.#checkOpen()
    return (await this.#opened?.store.count(filter)) ?? 0
  }

  /** What is in it; undefined as long as nothing was added. */
  async stats(): Promise<KnowledgeStats | undefined> {
    this.#checkOpen()
    const store = this.#opened?.store
    return store && statsOf(store, this.#place)
  }

  /** Reads everything and compares it with its checksums. With `repair`, damaged passages are removed, and adding their documents again completes them. */
  async verify(options: { readonly repair?: boolean } = {}): Promise<Verification> {
    this.#checkOpen()
    return (await this.#opened?.store.verify(options)) ?? { rows: 0, damaged: [] }
  }

  /** Brings the indexes up to date, and gives back the space of what was replaced and removed. */
  async compact(): Promise<void> {
    this.#checkOpen()
    await this.#opened?.store.compact()
  }

  /** Writes everything into a Parquet file (id, text, metadata, memory and more). @returns How many passages. */
  async export(path: string): Promise<number> {
    this.#checkOpen()
    if (this.#opened === undefined) throw emptyError()
    return exportStore(this.#opened.store, path)
  }

  async close(): Promise<void> {
    this.#closed = true
    const opened = this.#opened
    this.#opened = undefined
    await opened?.store.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  async #find(question: string, options: SearchOptions): Promise<Found[]> {
    this.#checkOpen()
    checkSearchOptions(options)
    if (this.#opened === undefined || (await this.#opened.store.count()) === 0) {
      if (question.trim() !== '') throw emptyError()
    }
    const { store, vectorOf } = this.#opened ?? {}
    if (store === undefined || vectorOf === undefined) throw emptyError()
    return find(question, { clara: this.#clara, store, vectorOf }, options)
  }

  async #adder(
    { signal, overlap, context }: Omit<AddOptions, 'onProgress'>,
    ids: readonly string[] | undefined,
    onProgress: ((progress: AddProgress) => void) | undefined,
  ): Promise<{ adder: Adder; records: Records; settings: string; progress: () => AddProgress }> {
    this.#checkOpen()
    const { tokenizer, config, fingerprint } = this.#clara.model
    const store = () => this.#opened?.store
    const records = await openRecords(store, ids)
    const settings = cuttingSettings(config.doc_max_length, { overlap, context })
    const progress = () => {
      const { compressed, unchanged, passages } = adder.counts
      return { done: compressed + unchanged, unchanged, total: passages }
    }
    const adder = createAdder({
      records,
      settings,
      signal,
      chunking: {
        maxTokens: config.doc_max_length,
        count: (text) => tokenizer.encode(text).length,
        ...(overlap === undefined ? {} : { overlap }),
        ...(context === undefined ? {} : { context }),
      },
      onProgress: onProgress && (() => onProgress(progress())),
      target: {
        store,
        fingerprint,
        compress: (texts) => this.#clara.compressDocuments(texts, signal ? { signal } : {}),
        create: (first) => this.#create(first),
        row: (passage, memory) => this.#row(passage, memory),
      },
    })
    return { adder, records, settings, progress }
  }

  async #create(first: readonly Memory[]): Promise<Store> {
    this.#checkOpen()
    this.#opened = await createStore(this.#place, this.#clara.model, this.#kind, first)
    return this.#opened.store
  }

  #row(passage: Passage, memory: Memory): StoreRow {
    if (this.#opened === undefined) throw new RangeError('There is no store yet.')
    return this.#opened.row(passage, memory)
  }

  #checkOpen(): void {
    if (this.#closed) throw new ClaraError('The knowledge base is closed.', { hint: 'Open it again.' })
  }
}

const emptyError = () =>
  new ClaraError('The knowledge base is empty.', { hint: 'Add documents first: await kb.add([{ id, text }]).' })

const addedBy = ({ counts: { documents, compressed, unchanged } }: Adder): Added => ({
  documents,
  compressed,
  unchanged,
})

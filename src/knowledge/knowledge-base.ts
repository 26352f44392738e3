import type { Clara } from '../clara/clara.ts'
import { memoryLength } from '../clara/config.ts'
import type { Memory } from '../clara/encoder.ts'
import type { ClaraModel } from '../clara/model.ts'
import { ClaraError } from '../errors.ts'
import type { SamplingOptions } from '../model/sampling.ts'
import { openInMemoryStore } from '../store/memory.ts'
import { dequantiseMemory, quantiseMemory } from '../store/quantise.ts'
import type { JsonValue, RowFilter, Store, StoreRow } from '../store/store.ts'
import { type KnowledgeDocument, type Passage, passagesOf, placeOf } from './chunks.ts'
import { retrievalVector, vectorWidth } from './retrieval.ts'

/** What a knowledge base needs of a model: a {@link Clara} is one. */
export interface KnowledgeModel
  extends Pick<Clara, 'compressDocuments' | 'compressQuestions' | 'score' | 'streamAnswer' | 'promptTokens'> {
  readonly model: Pick<ClaraModel, 'config' | 'fingerprint'> & {
    readonly tokenizer: Pick<ClaraModel['tokenizer'], 'encode'>
    readonly base: { readonly config: Pick<ClaraModel['base']['config'], 'hidden_size'> }
  }
}

export interface KnowledgeBaseOptions {
  /** The model that compresses, scores and answers. It stays the caller's to close. */
  readonly clara: KnowledgeModel
  /** How memory is kept: `int8` with a scale per token, a quarter of the bytes, or as it is. Default: `int8`. */
  readonly memory?: 'int8' | 'float32'
}

export interface AddOptions {
  readonly signal?: AbortSignal
  /** Called as passages are stored; unchanged ones count as done. */
  readonly onProgress?: (progress: { readonly done: number; readonly total: number }) => void
}

/** Passages that were compressed now, and that were there already. */
export interface Added {
  readonly documents: number
  readonly compressed: number
  readonly unchanged: number
}

export interface SearchOptions {
  /** Passages to return, the best first; with fewer in the knowledge base, all of them. Default: the model's generation_top_k. */
  readonly topK?: number
  /** Which passages to consider. */
  readonly filter?: RowFilter
  readonly signal?: AbortSignal
}

export interface AskOptions extends SearchOptions {
  /** Default: the model's max_new_tokens. */
  readonly maxNewTokens?: number
  /** Default: greedy. */
  readonly sampling?: SamplingOptions
}

/** A passage that was found. */
export interface Source {
  readonly id: string
  readonly documentId: string
  /** Its place among the document's passages, from 0. */
  readonly chunk: number
  /** What was compressed: `Title: passage` where the document has a title that fits, else the passage. */
  readonly text: string
  /** The model's own similarity to the question; comparable within one question only. */
  readonly score: number
  /** The passage is the document's text from `start` up to `end`. */
  readonly start: number
  readonly end: number
  readonly metadata: Readonly<Record<string, JsonValue>>
}

export interface Answer {
  readonly answer: string
  /** The passages that were read, in the order in which they stand in the prompt: the best first. */
  readonly sources: readonly Source[]
  readonly usage: {
    /** Positions of the prompt as it was, and with the passages' text in the place of their memory. */
    readonly promptTokens: { readonly memory: number; readonly text: number }
    /** Milliseconds from the question: until the passages were found, the first text came, the answer ended. */
    readonly ms: { readonly retrieve: number; readonly firstToken: number; readonly total: number }
  }
}

/** Candidates of the vector search that the model's own score then orders. */
const CANDIDATES = 100
/** Passages that are compressed and written at a time: what an interruption can lose. */
const BATCH = 32

/**
 * Documents compressed once, found and answered from in latent space (paper, section 3): passages are found by a compact vector, the
 * best {@link CANDIDATES} ordered by the model's own score, and the answer is generated from their stored memory.
 * Use it with `await using`, or close it.
 */
export class KnowledgeBase implements AsyncDisposable {
  readonly #clara: KnowledgeModel
  readonly #store: Store
  readonly #memory: 'int8' | 'float32'

  private constructor(clara: KnowledgeModel, store: Store, memory: 'int8' | 'float32') {
    this.#clara = clara
    this.#store = store
    this.#memory = memory
  }

  /**
   * Opens an empty knowledge base in memory, gone when the process ends.
   * @throws ClaraError when a path is given: storing on disk has no driver yet.
   */
  static async open(options: KnowledgeBaseOptions): Promise<KnowledgeBase>
  static async open(path: string, options: KnowledgeBaseOptions): Promise<KnowledgeBase>
  static async open(first: string | KnowledgeBaseOptions, second?: KnowledgeBaseOptions): Promise<KnowledgeBase> {
    if (typeof first === 'string' || second !== undefined) {
      throw new ClaraError(
        `The knowledge base "${String(first)}" cannot be opened: this version keeps them in memory only.`,
        {
          hint: 'Use KnowledgeBase.open({ clara }) and add the documents at every start.',
        },
      )
    }
    const { clara, memory = 'int8' } = first
    const { config, fingerprint, base } = clara.model
    const width = base.config.hidden_size
    const store = await openInMemoryStore({
      fingerprint,
      memoryWidth: width,
      vectorWidth: vectorWidth(config.compressor.similarity, width, memoryLength(config)),
    })
    return new KnowledgeBase(clara, store, memory)
  }

  /**
   * Adds documents: splits them into passages of at most doc_max_length tokens, compresses these and stores them. A passage that is
   * there already, from the same text and metadata, is not compressed again; a document that is there with another text
   * is replaced. When it is interrupted, what was stored stays, and adding the same again goes on from there.
   * @throws ClaraError when a document is malformed, has no text, or comes twice.
   */
  async add(documents: readonly KnowledgeDocument[], { signal, onProgress }: AddOptions = {}): Promise<Added> {
    const pending: Passage[] = []
    let total = 0
    for (const passages of this.#split(documents)) {
      total += passages.length
      pending.push(...(await this.#unstored(passages)))
    }
    const unchanged = total - pending.length
    const report = (compressed: number) => onProgress?.({ done: unchanged + compressed, total })
    report(0)
    for (let start = 0; start < pending.length; start += BATCH) {
      const batch = pending.slice(start, start + BATCH)
      const memories = await this.#clara.compressDocuments(
        batch.map(({ text }) => text),
        signal ? { signal } : {},
      )
      await this.#write(batch.map((passage, index) => this.#row(passage, memories[index] as Memory)))
      report(start + batch.length)
    }
    return { documents: documents.length, compressed: pending.length, unchanged }
  }

  /** Finds the passages that fit a question best. */
  async search(question: string, options: SearchOptions = {}): Promise<Source[]> {
    return (await this.#find(question, options)).map(({ source }) => source)
  }

  /** Answers a question from the passages that fit it best. */
  async ask(question: string, options: AskOptions = {}): Promise<Answer> {
    const pieces = this.askStream(question, options)
    let next = await pieces.next()
    while (next.done !== true) next = await pieces.next()
    return next.value
  }

  /** Streams the answer, piece by piece; the generator's return value is the whole {@link Answer}. */
  async *askStream(question: string, options: AskOptions = {}): AsyncGenerator<string, Answer, undefined> {
    const started = performance.now()
    const since = () => performance.now() - started
    const found = await this.#find(question, options)
    const retrieve = since()
    if (found.length === 0) {
      throw new ClaraError('No passage passes the filter.', { hint: 'Ask without it, or add documents that pass it.' })
    }
    const memories = found.map(({ memory }) => memory)
    const { maxNewTokens, sampling, signal } = options
    let answer = ''
    let firstToken: number | undefined
    for await (const piece of this.#clara.streamAnswer(question, memories, {
      ...(maxNewTokens === undefined ? {} : { maxNewTokens }),
      ...(sampling ? { sampling } : {}),
      ...(signal ? { signal } : {}),
    })) {
      firstToken ??= since()
      answer += piece
      yield piece
    }
    const total = since()
    const sources = found.map(({ source }) => source)
    const promptTokens = {
      memory: this.#clara.promptTokens(question, { memories }),
      text: this.#clara.promptTokens(question, { documents: sources.map(({ text }) => text) }),
    }
    const ms = { retrieve, firstToken: firstToken ?? total, total }
    return { answer: answer.trim(), sources, usage: { promptTokens, ms } }
  }

  /** Removes documents by id; returns the number of passages removed. Unknown ids are no error. */
  async remove(documentIds: readonly string[]): Promise<number> {
    return this.#store.remove(documentIds)
  }

  /** Number of passages, or of those that pass the filter. */
  async count(filter?: RowFilter): Promise<number> {
    return this.#store.count(filter)
  }

  async close(): Promise<void> {
    await this.#store.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  /** The passages of each document; all are checked before the first is stored. */
  #split(documents: readonly KnowledgeDocument[]): Passage[][] {
    const { tokenizer, config } = this.#clara.model
    const ids = new Set<string>()
    return documents.map((document) => {
      const passages = passagesOf(document, {
        maxTokens: config.doc_max_length,
        count: (text) => tokenizer.encode(text).length,
        settings: this.#memory,
      })
      const name = `Document ${JSON.stringify(document.id)}`
      if (ids.has(document.id))
        throw new ClaraError(`${name} comes twice.`, { hint: 'Give every document an id of its own.' })
      ids.add(document.id)
      if (passages.length === 0)
        throw new ClaraError(`${name} is empty.`, { hint: 'Leave it out: there is nothing to compress.' })
      return passages
    })
  }

  /** Those of a document's passages that are still to be compressed; what is stored of an older text is removed. */
  async #unstored(passages: readonly Passage[]): Promise<Passage[]> {
    const documentIds = passages.slice(0, 1).map(({ documentId }) => documentId)
    const stored = await this.#store.get(passages.map(({ id }) => id))
    const kept = stored.filter(
      (row, index): row is StoreRow => row?.contentHash === passages[index]?.contentHash && row !== undefined,
    )
    if ((await this.#store.count({ documentIds })) > kept.length) {
      await this.#store.remove(documentIds)
      await this.#write(kept)
    }
    const done = new Set(kept.map(({ id }) => id))
    return passages.filter(({ id }) => !done.has(id))
  }

  async #write(rows: readonly StoreRow[]): Promise<void> {
    await this.#store.add(rows, { fingerprint: this.#clara.model.fingerprint })
  }

  #row(passage: Passage, memory: Memory): StoreRow {
    const [n, width] = memory.shape
    const tokens = { dtype: 'float32', tokens: memory.tokens, n, width } as const
    return {
      ...passage,
      memory: this.#memory === 'int8' ? quantiseMemory(tokens) : tokens,
      vector: retrievalVector(this.#clara.model.config.compressor.similarity, memory),
    }
  }

  async #find(question: string, options: SearchOptions): Promise<{ source: Source; memory: Memory }[]> {
    const { config, fingerprint } = this.#clara.model
    const { topK = config.generation_top_k, filter, signal } = options
    checkQuestion(question, config.doc_max_length)
    if (!Number.isSafeInteger(topK) || topK < 1) {
      throw new ClaraError(`topK cannot be ${topK}.`, { expected: 'an integer from 1' })
    }
    if ((await this.#store.count()) === 0) {
      throw new ClaraError('The knowledge base is empty.', {
        hint: 'Add documents first: await kb.add([{ id, text }]).',
      })
    }
    const [asked] = await this.#clara.compressQuestions([question], signal ? { signal } : {})
    if (!asked) throw new RangeError('The model gave no memory for the question.')
    const vector = retrievalVector(config.compressor.similarity, asked)
    const limit = Math.max(topK, CANDIDATES)
    const candidates = await this.#store.search(vector, { fingerprint, limit, ...(filter ? { filter } : {}) })
    const rows = await this.#store.get(candidates.map(({ id }) => id))
    return rows
      .filter((row) => row !== undefined)
      .map((row) => {
        const memory = memoryOf(row)
        return { source: sourceOf(row, this.#clara.score(asked, memory)), memory }
      })
      .sort((one, other) => other.source.score - one.source.score || (one.source.id < other.source.id ? -1 : 1))
      .slice(0, topK)
  }
}

/** Characters per token beyond which a question cannot be one, whatever its language. */
const CHARACTERS_PER_TOKEN = 64

function checkQuestion(question: string, docMaxLength: number): void {
  if (typeof question !== 'string' || question.trim() === '') {
    throw new ClaraError('The question is empty.', { hint: 'Ask something.' })
  }
  const longest = docMaxLength * CHARACTERS_PER_TOKEN
  if (question.length > longest) {
    throw new ClaraError(`The question has ${question.length} characters.`, {
      expected: `at most ${longest}`,
      hint: 'Put what is to be read into a document, and ask about it.',
    })
  }
}

function memoryOf(row: StoreRow): Memory {
  const { tokens, n, width } = dequantiseMemory(row.memory)
  return { tokens, shape: [n, width] }
}

function sourceOf(row: StoreRow, score: number): Source {
  const { id, documentId, chunk, text } = row
  const { start, end, metadata } = placeOf(row)
  return { id, documentId, chunk, text, score, start, end, metadata }
}

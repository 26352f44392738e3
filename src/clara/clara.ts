import { createRandom } from '../data/random.ts'
import { ClaraError } from '../errors.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { type GenerationPrompt, generateTokens, type LanguageModel } from '../model/generate.ts'
import type { SamplingOptions } from '../model/sampling.ts'
import type { WeightKind } from '../model/weight-kinds.ts'
import { type Device, openRuntime, type Runtime } from '../runtime/runtime.ts'
import type { ChatMessage, PromptText } from '../tokenizer/types.ts'
import { type EncodedText, encodeText } from './document.ts'
import { type Encoder, joinMemories, type Memory } from './encoder.ts'
import { type ClaraModel, embeddedModel } from './model.ts'
import {
  answerPrompt,
  documentSlot,
  fullTextPrompt,
  paraphrasePrompt,
  paraphraseVariants,
  promptIds,
  textSlot,
} from './prompts.ts'
import { openRoles } from './roles.ts'
import { memorySimilarity } from './similarity.ts'
import { openInferenceModel } from './stored-model.ts'
import { hardTopK, requirePool } from './topk.ts'

export interface LoadOptions {
  /** Where to run. Default: `cpu`. */
  readonly device?: Device
  /** Threads. Default: all cores. */
  readonly threads?: number
  /** The base model: a folder, or a .gguf file for a model folder. Default: the one that the model's configuration names. */
  readonly base?: string | undefined
  /**
   * How weights are held. Default: `int8`, which answers faster; `fp32` gives the published numbers; `fp16` and `int4` take
   * less memory (docs/quantisation.md).
   */
  readonly weights?: WeightKind
  /** Whether only one layer's weights are in memory at a time: slow, for models that do not fit otherwise. Default: false. */
  readonly lowMemory?: boolean
  /** Folder for weights that were quantised once. Default: CLARA_CACHE, else `clara-ts` in XDG_CACHE_HOME or ~/.cache. */
  readonly cache?: string | undefined
  /** Told, in a sentence, when such a file is written, and why. */
  readonly onNotice?: ((message: string) => void) | undefined
}

export interface AnswerOptions {
  /** Default: the model's max_new_tokens. */
  readonly maxNewTokens?: number
  /** Default: greedy. */
  readonly sampling?: SamplingOptions
  readonly signal?: AbortSignal
}

export interface RetrievalOptions extends AnswerOptions {
  /** Documents the generator reads, the best first. Default: the model's generation_top_k, or as many as there are. */
  readonly topK?: number
}

export interface RetrievedAnswer {
  readonly answer: string
  /** Documents that were read, by index into the question's pool, the best first. */
  readonly documents: readonly number[]
  /** Score of every document of the pool. */
  readonly scores: readonly number[]
}

export interface CompressOptions {
  /** Text positions per memory token, where memory is proportional to length. Default: the model's compr_rate. */
  readonly rate?: number
  readonly signal?: AbortSignal
}

const DEFAULT_WEIGHTS: WeightKind = 'int8'

/**
 * A CLaRa model ready to use: it compresses documents into memory tokens, scores them against questions in the same space,
 * and answers from them. Holds a runtime thread: close it, or use it with `await using`.
 *
 * The methods named generateFrom… are those of the published code, with the same meaning.
 */
export class Clara implements AsyncDisposable {
  readonly model: ClaraModel
  readonly #runtime: Runtime
  readonly #encoder: Encoder
  readonly #queryReasoner: Encoder
  readonly #generator: LanguageModel

  private constructor(
    model: ClaraModel,
    runtime: Runtime,
    encoder: Encoder,
    queryReasoner: Encoder,
    generator: LanguageModel,
  ) {
    this.model = model
    this.#runtime = runtime
    this.#encoder = encoder
    this.#queryReasoner = queryReasoner
    this.#generator = generator
  }

  /**
   * Loads a model folder, or a checkpoint in the published layout. Default: the model that comes with the package.
   * @throws ClaraError when files are missing or damaged, or the device is not there.
   */
  static async load(folder: string = embeddedModel(), options: LoadOptions = {}): Promise<Clara> {
    const { base, cache, onNotice, ...rest } = options
    const { weights: kind = DEFAULT_WEIGHTS, lowMemory = false } = rest
    const store = { kind, lowMemory, folder: cache, onNotice }
    return Clara.open(await openInferenceModel(folder, { base }, store), rest)
  }

  /** Makes a model that is already in memory ready to use. */
  static async open(model: ClaraModel, options: Omit<LoadOptions, 'base' | 'cache' | 'onNotice'> = {}): Promise<Clara> {
    const { weights = DEFAULT_WEIGHTS, lowMemory = false, ...runtimeOptions } = options
    const runtime = await openRuntime(runtimeOptions)
    try {
      const { encoder, queryReasoner, generator } = await openRoles(model, runtime, { kind: weights, lowMemory })
      return new Clara(model, runtime, encoder, queryReasoner, generator)
    } catch (error) {
      await runtime.close()
      throw error
    }
  }

  /** Compresses documents into memory, in order. A document longer than doc_max_length is cut, which its memory says. */
  async compressDocuments(documents: readonly string[], options: CompressOptions = {}): Promise<DocumentMemory[]> {
    const encoded = documents.map((text, index) => encodeText(this.model, text, `Document ${index}`))
    return this.#encode(this.#encoder, encoded, options)
  }

  /** Memory of questions, for scoring documents with {@link score}. */
  async compressQuestions(questions: readonly string[], options: CompressOptions = {}): Promise<DocumentMemory[]> {
    const encoded = questions.map((text, index) => encodeText(this.model, text, `Question ${index}`))
    return this.#encode(this.#queryReasoner, encoded, options)
  }

  async #encode(encoder: Encoder, texts: readonly EncodedText[], options: CompressOptions): Promise<DocumentMemory[]> {
    const memories = await encoder.encode(
      texts.map(({ document }) => document),
      options,
    )
    return memories.map((memory, index) => ({ ...memory, truncatedTokens: texts[index]?.truncatedTokens ?? 0 }))
  }

  /** How well a document's memory fits a question's: the model's own similarity. */
  score(question: Memory, document: Memory): number {
    const { similarity } = this.model.config.compressor
    return memorySimilarity(similarity, question.tokens, document.tokens, this.model.base.config.hidden_size)
  }

  /** Compresses each question's documents and answers from their memory. */
  async generateFromText(
    questions: readonly string[],
    documents: readonly (readonly string[])[],
    options: AnswerOptions = {},
  ): Promise<string[]> {
    requirePerQuestion(questions, documents)
    const flat = await this.compressDocuments(documents.flat(), signalOf(options))
    return this.generateFromCompressedDocumentsAndQuestions(questions, regroup(flat, documents), options)
  }

  /** Answers from memories: `memories[i]` are those of question i, in the order the generator should read them. */
  async generateFromCompressedDocumentsAndQuestions(
    questions: readonly string[],
    memories: readonly (readonly Memory[])[],
    options: AnswerOptions = {},
  ): Promise<string[]> {
    requirePerQuestion(questions, memories)
    const prompts = questions.map((question, index) =>
      this.#memoryPrompt(memories[index] ?? [], (slots) => answerPrompt(question, slots)),
    )
    return this.#write(prompts, memories.flat(), options)
  }

  /** Finds the `topK` documents of each question's pool in latent space and answers from their memory. */
  async generateFromQuestions(
    questions: readonly string[],
    documents: readonly (readonly string[])[],
    options: RetrievalOptions = {},
  ): Promise<RetrievedAnswer[]> {
    requirePerQuestion(questions, documents)
    const counts = documents.map(({ length }, index) => {
      if (length === 0) throw new ClaraError(`Question ${index} has no documents to search.`)
      const count = options.topK ?? Math.min(this.model.config.generation_top_k, length)
      requirePool(count, length)
      return count
    })
    const asked = await this.compressQuestions(questions, signalOf(options))
    const pools = regroup(await this.compressDocuments(documents.flat(), signalOf(options)), documents)
    const scores = pools.map((pool, index) => pool.map((memory) => this.score(asked[index] as Memory, memory)))
    const chosen = scores.map((row, index) => hardTopK(row, counts[index] ?? 0))
    const memories = chosen.map((places, index) => places.map((place) => pools[index]?.[place] as Memory))
    const answers = await this.generateFromCompressedDocumentsAndQuestions(questions, memories, options)
    return answers.map((answer, index) => ({ answer, documents: chosen[index] ?? [], scores: scores[index] ?? [] }))
  }

  /** Says each document otherwise, from its memory, asked in one of the 13 ways of training (seeded by `sampling.seed`). */
  async generateFromParaphrase(documents: readonly string[], options: AnswerOptions = {}): Promise<string[]> {
    const memories = await this.compressDocuments(documents, signalOf(options))
    const random = createRandom(options.sampling?.seed ?? 0)
    const prompts = memories.map((memory) =>
      this.#memoryPrompt([memory], (slots) => paraphrasePrompt(slots, random.int(paraphraseVariants))),
    )
    return this.#write(prompts, memories, options)
  }

  /** The control: answers while reading the documents' full text instead of their memory. */
  async generateFromFullText(
    questions: readonly string[],
    documents: readonly (readonly string[])[],
    options: AnswerOptions = {},
  ): Promise<string[]> {
    requirePerQuestion(questions, documents)
    const prompts = questions.map((question, index) => ({
      ids: promptIds(this.model.tokenizer, fullTextPrompt(question, documents[index] ?? [])),
    }))
    return this.#write(prompts, [], options)
  }

  /** Streams the answer to one question from memories, or the text of some documents beside the memory of others, piece by piece. */
  async *streamAnswer(
    question: string,
    documents: readonly AnswerDocument[],
    options: AnswerOptions = {},
  ): AsyncGenerator<string, void, undefined> {
    const prompt = this.#memoryPrompt(documents, (slots) => answerPrompt(question, slots))
    yield* this.#stream(prompt, documents.filter(isMemory), options)
  }

  /** Streams the answer to one question from full text. */
  async *streamFullTextAnswer(
    question: string,
    documents: readonly string[],
    options: AnswerOptions = {},
  ): AsyncGenerator<string, void, undefined> {
    yield* this.#stream({ ids: promptIds(this.model.tokenizer, fullTextPrompt(question, documents)) }, [], options)
  }

  /** Positions of the prompt that asks a question over memories, as {@link streamAnswer} reads them, and over the documents' text. */
  promptTokens(
    question: string,
    source: { readonly memories: readonly AnswerDocument[] } | { readonly documents: readonly string[] },
  ): number {
    const { tokenizer } = this.model
    if ('documents' in source) return promptIds(tokenizer, fullTextPrompt(question, source.documents)).length
    return this.#memoryPrompt(source.memories, (slots) => answerPrompt(question, slots)).ids.length
  }

  async close(): Promise<void> {
    await this.#runtime.close()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }

  #memoryPrompt(
    documents: readonly AnswerDocument[],
    messages: (slots: PromptText[]) => ChatMessage[],
  ): GenerationPrompt {
    const { base, config, tokenizer, firstMemoryToken, memoryTokens } = this.model
    const memories = documents.filter(isMemory)
    const foreign = memories.find(({ shape }) => shape[1] !== base.config.hidden_size)
    if (foreign) {
      throw new ClaraError('A memory comes from another model.', {
        expected: `memory tokens of ${base.config.hidden_size} numbers`,
        received: `${foreign.shape[1]}`,
        hint: 'Compress the documents again with this model.',
      })
    }
    const slots = documents.map((document, index) =>
      isMemory(document)
        ? documentSlot({ count: document.shape[0], differentMemTokens: config.different_mem_tokens })
        : textSlot(document.text, index === documents.length - 1),
    )
    const ids = promptIds(tokenizer, messages(slots))
    let next = 0
    const memoryRows = ids.map((id) => (id >= firstMemoryToken && id < firstMemoryToken + memoryTokens ? next++ : -1))
    const rows = memories.reduce((sum, { shape }) => sum + shape[0], 0)
    if (next !== rows) {
      throw new ClaraError(`A document has more memory tokens than the model has names for.`, {
        expected: `at most ${memoryTokens} memory tokens a document`,
        received: `${Math.max(...memories.map(({ shape }) => shape[0]))}`,
        hint: "Compress with the model's own rate, or a higher one.",
      })
    }
    return { ids, memoryRows }
  }

  /** Continues prompts whose memories lie one after the other in `memories`. */
  async #write(
    prompts: readonly GenerationPrompt[],
    memories: readonly Memory[],
    options: AnswerOptions,
  ): Promise<string[]> {
    const { tokenizer } = this.model
    const rows: number[][] = prompts.map(() => [])
    for await (const tokens of this.#tokens(prompts, memories, options)) {
      tokens.forEach((token, row) => {
        if (token !== undefined) rows[row]?.push(token)
      })
    }
    return rows.map((ids) => tokenizer.decode(ids, { skipSpecials: true }).trim())
  }

  async *#stream(
    prompt: GenerationPrompt,
    memories: readonly Memory[],
    options: AnswerOptions,
  ): AsyncGenerator<string, void, undefined> {
    const decoder = this.model.tokenizer.streamDecoder({ skipSpecials: true })
    for await (const [token] of this.#tokens([prompt], memories, options)) {
      const text = token === undefined ? '' : decoder.push(token)
      if (text !== '') yield text
    }
    const rest = decoder.finish()
    if (rest !== '') yield rest
  }

  #tokens(prompts: readonly GenerationPrompt[], memories: readonly Memory[], options: AnswerOptions) {
    const { tokenizer, config, base } = this.model
    let first = 0
    const placed = prompts.map((prompt) => {
      const memoryRows = prompt.memoryRows?.map((row) => (row < 0 ? row : row + first))
      first += prompt.memoryRows?.filter((row) => row >= 0).length ?? 0
      return { ids: prompt.ids, ...(memoryRows ? { memoryRows } : {}) }
    })
    const memory: HostTensor | undefined =
      memories.length > 0 ? joinMemories(memories, base.config.hidden_size) : undefined
    return generateTokens(this.#generator, placed, memory, {
      maxNewTokens: options.maxNewTokens ?? config.max_new_tokens,
      stopIds: this.model.stopIds ?? [tokenizer.eosId],
      padId: tokenizer.padId,
      ...(options.sampling ? { sampling: options.sampling } : {}),
      ...(options.signal ? { signal: options.signal } : {}),
    })
  }
}

/** A document's memory, and how many of its tokens did not fit the compressor. */
export interface DocumentMemory extends Memory {
  readonly truncatedTokens: number
}

/** What the generator reads of a document: its memory, or its text. */
export type AnswerDocument = Memory | { readonly text: string }

const isMemory = (document: AnswerDocument): document is Memory => 'tokens' in document

const signalOf = ({ signal }: AnswerOptions): CompressOptions => (signal ? { signal } : {})

function requirePerQuestion(questions: readonly string[], lists: readonly unknown[]): void {
  if (questions.length !== lists.length) {
    throw new ClaraError(`There are ${questions.length} questions for ${lists.length} lists of documents.`, {
      expected: 'one list of documents for each question',
    })
  }
}

function regroup<Item>(flat: readonly Item[], like: readonly (readonly unknown[])[]): Item[][] {
  let offset = 0
  return like.map(({ length }) => {
    offset += length
    return flat.slice(offset - length, offset)
  })
}

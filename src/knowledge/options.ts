import type { ChunkOptions } from '../ingestion/chunk.ts'
import type { SamplingOptions } from '../model/sampling.ts'
import type { History } from './conversation.ts'
import type { Expand } from './expand.ts'
import type { FilesRead, ReadingOptions } from './files.ts'
import type { KnowledgeModel } from './model.ts'
import type { MemoryKind } from './place.ts'
import type { SearchOptions, Source } from './search.ts'

/* What a knowledge base is asked for, and what it gives back. */

export interface KnowledgeBaseOptions {
  /** The model that compresses, scores and answers. It stays the caller's to close. */
  readonly clara: KnowledgeModel
  /**
   * How memory is kept: `int8` with a scale per token, a quarter of the bytes; `float16`, half of them; or `float32`, as it is. Fixed when the
   * store is made. Default: `int8`, or what the store was made with.
   */
  readonly memory?: MemoryKind
}

/** How documents are cut into passages. */
export interface CuttingOptions extends Pick<ChunkOptions, 'overlap' | 'context'> {}

/** How far an add is. */
export interface AddProgress {
  /** Passages that are stored, and of those so many that were there already. */
  readonly done: number
  readonly unchanged: number
  /** Passages that are known of so far: all, once everything has been read. */
  readonly total: number
}

export interface AddOptions extends CuttingOptions {
  readonly signal?: AbortSignal
  /** Called as passages are stored; unchanged ones count as done. */
  readonly onProgress?: (progress: AddProgress) => void
}

/** Passages that were compressed now, and that were there already. */
export interface Added {
  readonly documents: number
  readonly compressed: number
  readonly unchanged: number
}

/** How far reading and adding files is. */
export interface FileProgress extends AddProgress {
  /** Files that are done with, and their bytes. */
  readonly files: number
  readonly bytes: number
}

export interface AddFilesOptions extends CuttingOptions, ReadingOptions {
  readonly signal?: AbortSignal
  readonly onProgress?: (progress: FileProgress) => void
}

export interface FilesAdded extends Added {
  readonly files: FilesRead
}

export interface Synced extends FilesAdded {
  /** Documents whose files are gone, and their passages. */
  readonly removed: { readonly documents: number; readonly chunks: number }
}

export interface AskOptions extends SearchOptions {
  /**
   * Of how many of the best passages the generator reads the text instead of the memory, which loses some of it; `auto`: those that stand
   * out by their score, at most 3. Default: 0.
   */
  readonly expand?: Expand
  /** The answer when nothing qualifies; then the model is not asked. Default: "Nothing relevant was found." */
  readonly nothingFound?: string
  /** Default: the model's max_new_tokens. */
  readonly maxNewTokens?: number
  /** Default: greedy. */
  readonly sampling?: SamplingOptions
}

export interface ChatOptions extends AskOptions {
  /** What becomes of the earlier turns. Default: `pass`. */
  readonly history?: History
}

export interface Answer {
  /** The answer, or the sentence that nothing relevant was found; then there are no sources. */
  readonly answer: string
  /** The question as it was searched with and answered; in a conversation, with what it takes from the turns before. */
  readonly question: string
  /** The passages that were read, in the order in which they stand in the prompt: the best first. */
  readonly sources: readonly Source[]
  readonly usage: {
    /** Positions of the prompt as it was, and with the passages' text in the place of their memory; 0 when nothing was found. */
    readonly promptTokens: { readonly memory: number; readonly text: number }
    /** How many of the sources were read as text. */
    readonly expanded: number
    /** Milliseconds from the question: until the passages were found, the first text came, the answer ended. */
    readonly ms: { readonly retrieve: number; readonly firstToken: number; readonly total: number }
  }
}

import type { BadRecord, ReadDocument } from '../document.ts'
import type { ReaderName, ReadOptions } from '../options.ts'
import type { Input } from '../source.ts'

/** What a reader gets besides the bytes. */
export interface ReadContext extends ReadOptions {
  readonly signal?: AbortSignal
}

/** Makes documents of one kind of file. One file, one reader, in this folder. */
export interface Reader {
  readonly name: ReaderName
  /** In lower case, without the dot. */
  readonly extensions: readonly string[]
  readonly mediaTypes: readonly string[]
  /**
   * The documents of a file: one, or one a record.
   * @throws ClaraError when the file cannot be read; an unreadable record is given as such instead, and the rest goes on.
   */
  read(input: Input, context: ReadContext): AsyncGenerator<ReadDocument | BadRecord, void, undefined>
}

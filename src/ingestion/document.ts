/** What readers make of a file: plain text, and where its headings and pages are in it. */

/** A value that JSON can hold. */
export type JsonValue = string | number | boolean | null | readonly JsonValue[] | { readonly [key: string]: JsonValue }

/** A heading, or what serves as one, such as the definition of a function. Offsets are UTF-16 code units, as strings count. */
export interface Heading {
  /** 1 for the outermost. */
  readonly level: number
  readonly title: string
  /** Where the part that it heads begins: at the heading itself, which is the text from `start` up to `end`. */
  readonly start: number
  readonly end: number
}

/** A page is the text from `start` up to `end`. */
export interface Page {
  /** From 1. */
  readonly number: number
  readonly start: number
  readonly end: number
}

/** A document as a reader gives it. */
export interface ReadDocument {
  /** A record's place in its file, from 1; absent where the file is one document. */
  readonly record?: number
  /** A record's own id. */
  readonly id?: string
  readonly title?: string
  readonly text: string
  /** In the order of their offsets. */
  readonly headings?: readonly Heading[]
  /** In the order of their offsets. */
  readonly pages?: readonly Page[]
  /** Whether lines, rather than sentences, are the text's units: source code. Default: false. */
  readonly lines?: boolean
  readonly metadata?: Readonly<Record<string, JsonValue>>
}

/** A record that cannot be read, in a file whose other records can. */
export interface BadRecord {
  readonly problem: string
}

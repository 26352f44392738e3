import { createHash } from 'node:crypto'
import { ClaraError } from '../errors.ts'
import { splitText } from '../ingestion/split.ts'
import type { JsonValue, StoreRow } from '../store/store.ts'

/** A document to add. */
export interface KnowledgeDocument {
  /** Unique; adding another text under the same id replaces the old one. */
  readonly id: string
  readonly text: string
  /** Kept with every passage. `title`, a string, is read with every passage too. */
  readonly metadata?: Readonly<Record<string, JsonValue>>
}

/** A passage of a document, as it will be compressed and stored. */
export interface Passage extends Pick<StoreRow, 'id' | 'documentId' | 'chunk' | 'text' | 'metadata' | 'contentHash'> {}

export interface PassageOptions {
  /** The longest passage, in tokens, title included. */
  readonly maxTokens: number
  readonly count: (text: string) => number
  /** Whatever else decides a passage's memory: it goes into the content hash. */
  readonly settings: string
}

/** Key in a row's metadata under which its place in the document lies. */
const PLACE = 'clara.place'
/** A title that takes more than this share of a passage is not carried: it would crowd out the text. */
const LARGEST_TITLE = 0.25

/**
 * Cuts a document into passages.
 * @throws ClaraError when the id, the text or the metadata is not what it should be.
 */
export function passagesOf(document: KnowledgeDocument, options: PassageOptions): Passage[] {
  const { id, text, metadata } = checked(document)
  const title = typeof metadata.title === 'string' ? metadata.title.trim() : ''
  const heading = title === '' ? '' : `${title}: `
  // the length first: a title is not read when it cannot fit
  const carried =
    heading.length <= options.maxTokens * 16 && options.count(heading) <= LARGEST_TITLE * options.maxTokens
      ? heading
      : ''
  const count = (stretch: string) => options.count(carried + stretch)
  return splitText(text, { maxTokens: options.maxTokens, count }).map(({ text: stretch, start, end }, chunk) => {
    const passage = {
      id: `${id}#${chunk}`,
      documentId: id,
      chunk,
      text: carried + stretch,
      metadata: { ...metadata, [PLACE]: { start, end } },
    }
    return { ...passage, contentHash: hash([options.settings, passage.text, passage.metadata]) }
  })
}

/** Where a row's passage stands in its document, and the document's own metadata. */
export function placeOf(row: Pick<StoreRow, 'metadata'>): {
  readonly start: number
  readonly end: number
  readonly metadata: Readonly<Record<string, JsonValue>>
} {
  const { [PLACE]: place, ...metadata } = row.metadata
  const { start, end } = place as { start: number; end: number }
  return { start, end, metadata }
}

function checked({ id, text, metadata = {} }: KnowledgeDocument): Required<KnowledgeDocument> {
  if (typeof id !== 'string' || id === '') {
    throw new ClaraError('A document has no id.', {
      expected: 'a non-empty string',
      received: JSON.stringify(id) ?? 'none',
    })
  }
  const name = `document ${JSON.stringify(id)}`
  if (typeof text !== 'string') throw new ClaraError(`The text of ${name} is not a string.`, { received: typeof text })
  if (typeof metadata !== 'object' || metadata === null || Array.isArray(metadata)) {
    throw new ClaraError(`The metadata of ${name} is not an object.`, { expected: 'an object of JSON values' })
  }
  if (Object.hasOwn(metadata, PLACE)) {
    throw new ClaraError(`The metadata of ${name} has the key "${PLACE}".`, { hint: 'It is taken: use another name.' })
  }
  return { id, text, metadata }
}

function hash(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('hex')
}

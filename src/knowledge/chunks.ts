import { createHash } from 'node:crypto'
import { z } from 'zod'
import { ClaraError } from '../errors.ts'
import { type ChunkOptions, chunkDocument } from '../ingestion/chunk.ts'
import type { Heading, Page } from '../ingestion/document.ts'
import type { JsonValue, StoreRow } from '../store/store.ts'

/** A document to add. */
export interface KnowledgeDocument {
  /** Unique; adding another text under the same id replaces the old one. */
  readonly id: string
  readonly text: string
  /** Kept with every passage. */
  readonly metadata?: Readonly<Record<string, JsonValue>>
  /** Read with every passage. Default: the metadata's `title`, where that is a string. */
  readonly title?: string
  /** Headings in the text: passages are cut there, and read with those that they stand under. */
  readonly headings?: readonly Heading[]
  readonly pages?: readonly Page[]
  /** Whether lines, rather than sentences, are the text's units, as in source code. Default: false. */
  readonly lines?: boolean
}

/** A passage of a document, as it will be compressed and stored. */
export interface Passage extends Pick<StoreRow, 'id' | 'documentId' | 'chunk' | 'text' | 'metadata' | 'contentHash'> {}

/** A document that was found to be right. */
export type CheckedDocument = Required<Omit<KnowledgeDocument, 'title'>> & { readonly title?: string }

export interface PassageOptions extends ChunkOptions {
  /** Whatever else decides a passage's memory: it goes into the content hashes. */
  readonly settings: string
}

/** Where a passage stands in its document. */
export interface PassagePlace {
  /** The passage is the document's text from `start` up to `end`. */
  readonly start: number
  readonly end: number
  /** The page on which it begins, and the one on which it ends, from 1; absent where there are no pages. */
  readonly page?: number
  readonly lastPage?: number
  /** Titles of the headings that its beginning stands under, the outermost first; absent where there are none. */
  readonly headings?: readonly string[]
}

const placeSchema = z.object({
  start: z.number(),
  end: z.number(),
  page: z.number().exactOptional(),
  lastPage: z.number().exactOptional(),
  headings: z.array(z.string()).exactOptional(),
})

/** Key in a row's metadata under which its place in the document lies. */
const PLACE = 'clara.place'

/**
 * Cuts a document into passages, one by one as they are taken.
 * @throws ClaraError when the document is not what it should be.
 */
export function* passagesOf(document: KnowledgeDocument, options: PassageOptions): Generator<Passage, void, undefined> {
  const checked = checkDocument(document)
  const { id, metadata } = checked
  let number = 0
  for (const { context, text, start, end, page, lastPage, headings } of chunkDocument(checked, options)) {
    const place = {
      start,
      end,
      ...(page === undefined ? {} : { page }),
      ...(lastPage === undefined ? {} : { lastPage }),
      ...(headings.length === 0 ? {} : { headings }),
    }
    const chunk = number++
    const passage = {
      id: `${id}#${chunk}`,
      documentId: id,
      chunk,
      text: context + text,
      metadata: { ...metadata, [PLACE]: place },
    }
    yield { ...passage, contentHash: hashOf([options.settings, passage.text, passage.metadata]) }
  }
}

/** What decides how documents are cut: part of their hashes, beside their own content. */
export function cuttingSettings(
  docMaxLength: number,
  {
    overlap,
    context,
  }: { readonly overlap?: number | undefined; readonly context?: ChunkOptions['context'] | undefined },
): string {
  return JSON.stringify([docMaxLength, overlap ?? 0, context ?? 'headings'])
}

/** Hash of all that a document's passages are made from: its own content, and how it is cut. */
export function documentHash(
  { title, text, headings, pages, lines, metadata }: CheckedDocument,
  settings: string,
): string {
  return hashOf([settings, title ?? null, text, headings, pages, lines, metadata])
}

/** Where a row's passage stands in its document, and the document's own metadata. */
export function placeOf(row: Pick<StoreRow, 'id' | 'metadata'>): {
  readonly place: PassagePlace
  readonly metadata: Readonly<Record<string, JsonValue>>
} {
  const { [PLACE]: found, ...metadata } = row.metadata
  const place = placeSchema.safeParse(found)
  if (place.success) return { place: place.data, metadata }
  throw new ClaraError(`Row ${JSON.stringify(row.id)} of the store does not say where its passage stands.`, {
    expected: `metadata "${PLACE}" with start and end`,
    hint: 'It was not written by a knowledge base: remove its document and add it again.',
  })
}

/**
 * A document with its defaults.
 * @throws ClaraError when the id, the text or the metadata is not what it should be.
 */
export function checkDocument(document: KnowledgeDocument): CheckedDocument {
  const { id, text, metadata = {}, headings = [], pages = [], lines = false } = document
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
  const named = document.title ?? metadata.title
  const title = typeof named === 'string' ? named.trim() : ''
  // a lone half of a surrogate pair has no place in a database; what replaces it is as long, so that offsets hold
  const wellFormed = text.replace(/\p{Surrogate}/gu, '\ufffd')
  return { id, text: wellFormed, metadata, headings, pages, lines, ...(title === '' ? {} : { title }) }
}

/** @throws ClaraError when a document is not what it should be, has no text, or comes twice. */
export function checkAll(documents: readonly KnowledgeDocument[]): CheckedDocument[] {
  const ids = new Set<string>()
  return documents.map((given) => {
    const document = requireText(checkDocument(given))
    if (ids.has(document.id)) {
      throw new ClaraError(`Document ${JSON.stringify(document.id)} comes twice.`, {
        hint: 'Give every document an id of its own.',
      })
    }
    ids.add(document.id)
    return document
  })
}

/** @throws ClaraError when there is nothing to compress. */
export function requireText(document: CheckedDocument): CheckedDocument {
  if (document.text.trim() !== '') return document
  throw new ClaraError(`Document ${JSON.stringify(document.id)} is empty.`, {
    hint: 'Leave it out: there is nothing to compress.',
  })
}

export function hashOf(value: unknown): string {
  return createHash('sha256').update(JSON.stringify(value)).digest('hex')
}

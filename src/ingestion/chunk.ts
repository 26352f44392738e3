import type { Heading, Page } from './document.ts'
import type { SourceDocument } from './ingest.ts'
import { type Chunk, chunksOf } from './split.ts'

export interface ChunkOptions {
  /** The most that a chunk may count, its context included. */
  readonly maxTokens: number
  /** What a stretch of text counts, such as the length of its tokens. */
  readonly count: (text: string) => number
  /** Most tokens that a chunk repeats of the end of the one before. Default: 0. */
  readonly overlap?: number
  /** What the context of a chunk is made of. Default: `headings`, the title and the headings that it stands under. */
  readonly context?: 'headings' | 'title' | 'none'
}

/** A chunk with its place in the document. */
export interface DocumentChunk extends Chunk {
  /** Titles of the headings that its beginning stands under, the outermost first. */
  readonly headings: readonly string[]
  /** The page on which it begins, and the one on which it ends; absent where there are no pages. */
  readonly page?: number
  readonly lastPage?: number
  /** What is read before the text, such as `Manual > Installing: `; may be empty. Headings inside the chunk are not in it. */
  readonly context: string
}

/** A context that takes more than this share of a chunk is shortened: it would crowd out the text. */
const LARGEST_CONTEXT = 0.25
/** Characters per token beyond which a context is not even counted. */
const CHARACTERS_PER_TOKEN = 16
const SEPARATOR = ' > '

/**
 * Cuts a document into chunks by its structure, as {@link chunksOf} does, one by one as they are taken; context and text of each count at
 * most `maxTokens` together.
 * @throws ClaraError as chunksOf, when the first is taken.
 */
export function* chunkDocument(
  { title, text, headings, pages, lines }: Pick<SourceDocument, 'title' | 'text' | 'headings' | 'pages' | 'lines'>,
  { maxTokens, count, overlap = 0, context: kind = 'headings' }: ChunkOptions,
): Generator<DocumentChunk, void, undefined> {
  const paths = headingPaths(headings)
  const pathAt = (offset: number) => {
    const index = lastAt(headings, offset)
    return index < 0 ? [] : (paths[index] ?? [])
  }
  const counted = new Map<string, boolean>()
  const fits = (context: string) => {
    const known = counted.get(context)
    if (known !== undefined) return known
    const short = context.length <= maxTokens * CHARACTERS_PER_TOKEN && count(context) <= LARGEST_CONTEXT * maxTokens
    if (counted.size > 1000) counted.clear()
    counted.set(context, short)
    return short
  }
  const contextAt = (offset: number) => {
    if (kind === 'none') return ''
    // a heading that the chunk itself begins with is not said twice, nor is a title that is one
    const path = pathAt(offset)
    const above = path.filter(({ end }) => end <= offset)
    const isInside = path.some((heading) => heading.title === title && heading.end > offset)
    const names = kind === 'title' ? [] : above.map((heading) => heading.title)
    const whole = [isInside ? '' : (title ?? ''), ...names].filter(
      (name, index, all) => name !== '' && name !== all[index - 1],
    )
    const candidates = [whole, [...whole.slice(0, 1), ...whole.slice(1).slice(-1)], whole.slice(-1), whole.slice(0, 1)]
    return candidates.map(joined).find((context) => context !== '' && fits(context)) ?? ''
  }
  // the same start is asked about many times in a row
  let last = { offset: -1, context: '' }
  const contextOnce = (offset: number) => {
    if (last.offset !== offset) last = { offset, context: contextAt(offset) }
    return last.context
  }
  const chunks = chunksOf(text, {
    maxTokens,
    overlap,
    headings,
    lines,
    count: (stretch, start) => count(contextOnce(start) + stretch),
  })
  for (const chunk of chunks) {
    yield {
      ...chunk,
      headings: pathAt(chunk.start).map((heading) => heading.title),
      ...pagesOf(pages, chunk),
      context: contextOnce(chunk.start),
    }
  }
}

const joined = (names: readonly string[]) => (names.length === 0 ? '' : `${names.join(SEPARATOR)}: `)

function pagesOf(
  pages: readonly Page[],
  { start, end }: Chunk,
): { readonly page?: number; readonly lastPage?: number } {
  const [first, last] = [pages[lastAt(pages, start)], pages[lastAt(pages, end - 1)]]
  return first === undefined || last === undefined ? {} : { page: first.number, lastPage: last.number }
}

/** For each heading, those that it stands under and itself, the outermost first. */
function headingPaths(headings: readonly Heading[]): (readonly Heading[])[] {
  let path: readonly Heading[] = []
  return headings.map((heading) => {
    path = [...path.filter(({ level }) => level < heading.level), heading]
    return path
  })
}

/** Index of the last that begins at or before an offset; -1 when none does. */
function lastAt(parts: readonly { readonly start: number }[], offset: number): number {
  let [low, high] = [0, parts.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if ((parts[middle]?.start ?? 0) <= offset) low = middle + 1
    else high = middle
  }
  return low - 1
}

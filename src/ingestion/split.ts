import { ClaraError } from '../errors.ts'
import type { Heading } from './document.ts'

/** A stretch of a text: `text` is the characters from `start` up to `end` (UTF-16 code units, as strings count). */
export interface Chunk {
  readonly text: string
  readonly start: number
  readonly end: number
}

export interface SplitOptions {
  /** The most that a chunk may count. */
  readonly maxTokens: number
  /** What a stretch of text that begins at `start` counts, such as the length of its tokens. */
  readonly count: (text: string, start: number) => number
  /** Most that a chunk repeats of the end of the one before, in whole sentences if it can; at most half of maxTokens. Default: 0. */
  readonly overlap?: number
  /** Where parts of the text begin, in order: better places to cut than the ends of paragraphs, the outermost the best. */
  readonly headings?: readonly Pick<Heading, 'level' | 'start' | 'end'>[]
  /** Whether lines are the text's units, as in source code, and sentences are not looked for. Default: false. */
  readonly lines?: boolean
}

/**
 * Characters of a window per token of a chunk: boundaries are sought in a window, since Intl.Segmenter takes time that grows
 * with the square of its text. A chunk never has more characters than its window, even where more would count little.
 */
const WINDOW_PER_TOKEN = 16

/** Where a text may be cut, from the best place to the last resort: the offsets behind each unit of a window. */
type Boundaries = (window: string) => number[]
const [sentenceEnds, wordEnds, graphemeEnds] = [segmentEnds('sentence'), segmentEnds('word'), segmentEnds('grapheme')]
const inWords: readonly Boundaries[] = [spaceEnds, wholeWordEnds, wordEnds, graphemeEnds, codePointEnds]
const inProse: readonly Boundaries[] = [paragraphEnds, sentenceEnds, lineEnds, ...inWords]
const inLines: readonly Boundaries[] = [paragraphEnds, lineEnds, ...inWords]
/** Boundaries that are taken only where they fill well enough, since not every text has them. */
const sparse = new Set<Boundaries>([paragraphEnds, spaceEnds])
/** Characters in which boundaries are sought at first, at least. */
const LEAST_NEAR = 64
/** A paragraph's end, a heading or white space is taken only where it fills at least this share of a chunk; every other boundary wherever it is. */
const LEAST_FILLED = 0.5

/**
 * Cuts a text into chunks that count at most `maxTokens`, in order. A chunk ends before a heading, else at the end of a paragraph, else of a
 * sentence, else of a line, else at white space, else at the end of a word with the marks that belong to it, as late as fits: a sentence that fits into a chunk is
 * never cut. Only a word that is longer than a chunk is cut inside, between characters as a reader sees them. A heading stays with what follows it. No language is
 * assumed (Unicode's segmentation rules, UAX 29). White space around chunks belongs to none; text without anything else has no chunks.
 *
 * @throws ClaraError when maxTokens is below 1, overlap is more than half of it, or a single character counts more.
 */
export function splitText(text: string, options: SplitOptions): Chunk[] {
  return [...chunksOf(text, options)]
}

/** The same one by one: a long text is cut no further than its chunks are taken. */
export function* chunksOf(text: string, options: SplitOptions): Generator<Chunk, void, undefined> {
  const { maxTokens, count, overlap = 0, headings = [] } = options
  if (!Number.isSafeInteger(maxTokens) || maxTokens < 1) {
    throw new ClaraError('A chunk cannot hold so many tokens.', {
      expected: 'an integer from 1',
      received: String(maxTokens),
    })
  }
  if (!Number.isSafeInteger(overlap) || overlap < 0 || overlap > maxTokens / 2) {
    throw new ClaraError('Chunks cannot overlap by so many tokens.', {
      expected: `an integer from 0 to ${Math.floor(maxTokens / 2)}, half of a chunk`,
      received: String(overlap),
    })
  }
  const cut = cutter(text, options)
  const beginnings = new Set(headings.map(({ start }) => start))
  /** Where what no chunk holds yet begins. */
  let next = skipSpace(text, 0)
  let start = next
  while (next < text.length) {
    let end = cut(start)
    // an overlap that leaves no room for anything new is dropped
    if (start < next && end <= next) {
      start = next
      end = cut(start)
    }
    const trimmed = text.slice(start, end).trimEnd()
    yield { text: trimmed, start, end: start + trimmed.length }
    next = skipSpace(text, end)
    // what begins under a heading of its own needs nothing of what stands before it
    start =
      overlap === 0 || beginnings.has(next)
        ? next
        : (overlapStart(trimmed, start, overlap, count, options.lines ?? false) ?? next)
  }
}

/** Where a chunk that begins at an offset ends, white space included. */
function cutter(
  text: string,
  { maxTokens, count, headings = [], lines = false }: SplitOptions,
): (start: number) => number {
  const windowLength = maxTokens * WINDOW_PER_TOKEN
  /** Characters per token so far: where the search for the longest fit begins. */
  let density = 4
  const levels = lines ? inLines : inProse
  let firstHeading = 0
  return (start) => {
    const window = text.slice(start, wholeCharacters(text, start + windowLength))
    const isLast = start + window.length === text.length
    const measure = (end: number) => {
      const stretch = window.slice(0, end).trimEnd()
      const tokens = count(stretch, start)
      if (tokens > 0) density = stretch.length / tokens
      return tokens
    }
    const guess = () => Math.round(density * maxTokens)
    // an overlap may begin before the heading that was last
    while (firstHeading > 0 && (headings[firstHeading - 1]?.start ?? 0) > start) firstHeading--
    while ((headings[firstHeading]?.start ?? Number.POSITIVE_INFINITY) <= start) firstHeading++
    const within: Part[] = []
    for (let index = firstHeading; ; index++) {
      const heading = headings[index]
      if (heading === undefined || heading.start >= start + window.length) break
      within.push({ level: heading.level, start: heading.start - start, end: heading.end - start })
    }
    const end = chunkEnd(window, isLast, { maxTokens, levels, headings: within, measure, guess })
    if (end === undefined) {
      throw new ClaraError(`The character ${JSON.stringify(window.slice(0, 2))} alone exceeds a chunk.`, {
        expected: `at most ${maxTokens} tokens`,
        hint: 'Allow longer chunks.',
      })
    }
    return start + end
  }
}

type Part = Pick<Heading, 'level' | 'start' | 'end'>

/** How a window is cut. */
interface Cutting {
  readonly maxTokens: number
  readonly levels: readonly Boundaries[]
  /** Those inside the window, not at its start. */
  readonly headings: readonly Part[]
  readonly measure: (end: number) => number
  readonly guess: () => number
}

function chunkEnd(window: string, isLast: boolean, cutting: Cutting): number | undefined {
  const { headings, measure, guess } = cutting
  if (isLast && measure(window.length) <= cutting.maxTokens) return window.length
  const atHeading = headings.length === 0 ? undefined : headingCut(cutting)
  if (atHeading !== undefined) return withoutLastHeading(window, atHeading, headings)
  // looking twice as far as the chunk will probably reach is mostly enough
  const near = wholeCharacters(window, Math.max(LEAST_NEAR, 2 * guess()))
  let cut = bestCut(window.slice(0, near), cutting)
  if (!cut || cut.mayGoOn) cut = bestCut(window, cutting)
  return cut && withoutLastHeading(window, cut.end, headings)
}

/** The last heading of the outermost level that fills a chunk well enough. */
function headingCut({ maxTokens, headings, measure, guess }: Cutting): number | undefined {
  const levels = [...new Set(headings.map(({ level }) => level))].sort((one, other) => one - other)
  for (const level of levels) {
    const starts = headings.filter((heading) => heading.level <= level).map(({ start }) => start)
    const best = farthestFit(starts, maxTokens, measure, guess)
    if (best && best.tokens >= LEAST_FILLED * maxTokens) return best.end
  }
  return undefined
}

/** The end of a chunk, moved before headings that nothing follows in it. */
function withoutLastHeading(window: string, end: number, headings: readonly Part[]): number {
  let moved = end
  for (const heading of [...headings].reverse()) {
    if (heading.start >= moved) continue
    const nothingFollows = heading.end >= moved || window.slice(heading.end, moved).trim() === ''
    if (!nothingFollows || window.slice(0, heading.start).trim() === '') break
    moved = heading.start
  }
  return moved
}

/** Where the overlap with a chunk begins: at the first sentence, else word, from which the rest of the chunk is no longer than allowed. */
function overlapStart(
  chunk: string,
  offset: number,
  overlap: number,
  count: (text: string, start: number) => number,
  lines: boolean,
): number | undefined {
  for (const boundaries of [lines ? lineEnds : sentenceEnds, wordEnds]) {
    const starts = boundaries(chunk)
      .map((end) => skipSpace(chunk, end))
      .filter((start) => start < chunk.length)
    let [low, high] = [0, starts.length]
    while (low < high) {
      const middle = (low + high) >> 1
      const at = starts[middle] ?? 0
      // what stands before every chunk is not part of the overlap
      const tokens = count(chunk.slice(at), offset + at) - count('', offset + at)
      if (tokens <= overlap) high = middle
      else low = middle + 1
    }
    const start = starts[low]
    if (start !== undefined) return offset + start
  }
  return undefined
}

/** The end of a chunk at the best level of boundary. `mayGoOn`: all boundaries fit, so a later one might too. */
function bestCut(
  stretch: string,
  { maxTokens, levels, measure, guess }: Cutting,
): { readonly end: number; readonly mayGoOn: boolean } | undefined {
  for (const boundaries of levels) {
    // what ends with the stretch may go on beyond it
    const ends = boundaries(stretch).filter((end) => end < stretch.length)
    const best = farthestFit(ends, maxTokens, measure, guess)
    if (best && (!sparse.has(boundaries) || best.tokens >= LEAST_FILLED * maxTokens)) {
      return { end: best.end, mayGoOn: best.end === ends.at(-1) }
    }
  }
  return undefined
}

/** The last of the rising offsets up to which the text fits. Longer text is taken to count at least as much. */
function farthestFit(
  ends: readonly number[],
  maxTokens: number,
  measure: (end: number) => number,
  guess: () => number,
): { readonly end: number; readonly tokens: number } | undefined {
  let best: { end: number; tokens: number } | undefined
  let [low, high] = [0, ends.length]
  for (let attempt = 0; low < high; attempt++) {
    // the first tries aim at where the density so far points, which mostly settles it; the rest halve what is left
    const aimed = attempt < 4 ? lastUpTo(ends, guess(), low, high) : (low + high) >> 1
    const end = ends[aimed] ?? 0
    const tokens = measure(end)
    if (tokens === maxTokens) return { end, tokens }
    if (tokens < maxTokens) {
      best = { end, tokens }
      low = aimed + 1
    } else {
      high = aimed
    }
  }
  return best
}

/** Index of the last offset that is at most `limit`, kept within [low, high - 1]. */
function lastUpTo(ends: readonly number[], limit: number, low: number, high: number): number {
  let index = low
  while (index + 1 < high && (ends[index + 1] ?? 0) <= limit) index++
  return index
}

function paragraphEnds(window: string): number[] {
  return Array.from(
    window.matchAll(/(?:\r\n|\n|\r)[^\S\n\r]*(?:\r\n|\n|\r)\s*|\u2029\s*/gu),
    (gap) => gap.index + gap[0].length,
  )
}

function lineEnds(window: string): number[] {
  return Array.from(window.matchAll(/[\n\r\u0085\u2028\u2029]+/gu), (gap) => gap.index + gap[0].length)
}

function spaceEnds(window: string): number[] {
  return Array.from(window.matchAll(/\s+/gu), (gap) => gap.index + gap[0].length)
}

/** Ends of words, but not between a word and a mark that belongs to it: what closes or ends something stays with what is before, what opens with what follows. */
function wholeWordEnds(window: string): number[] {
  return wordEnds(window).filter(
    (end) =>
      !/^[\p{Pe}\p{Pf}\p{Po}\p{Pd}\p{Pc}]/u.test(window.slice(end, end + 2)) &&
      !/[\p{Ps}\p{Pi}]$/u.test(window.slice(0, end).slice(-2)),
  )
}

function segmentEnds(granularity: 'sentence' | 'word' | 'grapheme'): (window: string) => number[] {
  // one fixed language, so that chunks do not depend on the machine's; the rules are Unicode's for all
  const segmenter = new Intl.Segmenter('en', { granularity })
  return (window) => {
    // a single line end inside a paragraph ends no sentence: text may be wrapped
    const read =
      granularity === 'sentence'
        ? window.replace(/(?<![\n\r])(?:\r\n|\n|\r)(?![\n\r])/g, (gap) => ' '.repeat(gap.length))
        : window
    return Array.from(segmenter.segment(read), ({ index, segment }) => index + segment.length)
  }
}

function codePointEnds(window: string): number[] {
  let end = 0
  return Array.from(window, (character) => {
    end += character.length
    return end
  })
}

function skipSpace(text: string, from: number): number {
  let at = from
  while (at < text.length && /\s/u.test(text[at] ?? '')) at++
  return at
}

/** The offset, or one less where it lies inside a surrogate pair. */
function wholeCharacters(text: string, offset: number): number {
  if (offset >= text.length) return text.length
  return isPair(text, offset) ? offset - 1 : offset
}

const isPair = (text: string, offset: number) =>
  /^[\uD800-\uDBFF][\uDC00-\uDFFF]$/.test(text.slice(offset - 1, offset + 1))

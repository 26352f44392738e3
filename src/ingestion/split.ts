import { ClaraError } from '../errors.ts'

/** A stretch of a text: `text` is the characters from `start` up to `end` (UTF-16 code units, as strings count). */
export interface Chunk {
  readonly text: string
  readonly start: number
  readonly end: number
}

export interface SplitOptions {
  /** The most that a chunk may count. */
  readonly maxTokens: number
  /** What a stretch of text counts, such as the length of its tokens. */
  readonly count: (text: string) => number
}

/**
 * Characters of a window per token of a chunk: boundaries are sought in a window, since Intl.Segmenter takes time that grows
 * with the square of its text. A chunk never has more characters than its window, even where more would count little.
 */
const WINDOW_PER_TOKEN = 16

/** Where a text may be cut, from the best place to the last resort: the offsets behind each unit of a window. */
const levels: readonly ((window: string) => number[])[] = [
  paragraphEnds,
  segmentEnds('sentence'),
  lineEnds,
  segmentEnds('word'),
  segmentEnds('grapheme'),
  codePointEnds,
]
/** Characters in which boundaries are sought at first, at least. */
const LEAST_NEAR = 64
/** A paragraph's end is taken only where it fills at least this share of a chunk; every other boundary wherever it is. */
const LEAST_PARAGRAPHS = 0.5

/**
 * Cuts a text into chunks that count at most `maxTokens`, in order. A chunk ends at the end of a paragraph, else of a sentence, else of a
 * line, else of a word, as late as fits: a sentence that fits into a chunk is never cut. Only a word that is longer than a chunk is cut
 * inside, between characters as a reader sees them. No language is assumed (Unicode's segmentation rules, UAX 29). White space
 * around chunks belongs to none; text without anything else has no chunks.
 *
 * @throws ClaraError when maxTokens is below 1, or a single character counts more.
 */
export function splitText(text: string, { maxTokens, count }: SplitOptions): Chunk[] {
  if (!Number.isSafeInteger(maxTokens) || maxTokens < 1) {
    throw new ClaraError('A chunk cannot hold so many tokens.', {
      expected: 'an integer from 1',
      received: String(maxTokens),
    })
  }
  const chunks: Chunk[] = []
  const windowLength = maxTokens * WINDOW_PER_TOKEN
  /** Characters per token so far: where the search for the longest fit begins. */
  let density = 4
  let start = skipSpace(text, 0)
  while (start < text.length) {
    const window = text.slice(start, wholeCharacters(text, start + windowLength))
    const isLast = start + window.length === text.length
    const measure = (end: number) => {
      const stretch = window.slice(0, end).trimEnd()
      const tokens = count(stretch)
      if (tokens > 0) density = stretch.length / tokens
      return tokens
    }
    const end = chunkEnd(window, isLast, maxTokens, measure, () => Math.round(density * maxTokens))
    if (end === undefined) {
      throw new ClaraError(`The character ${JSON.stringify(window.slice(0, 2))} alone exceeds a chunk.`, {
        expected: `at most ${maxTokens} tokens`,
        hint: 'Allow longer chunks.',
      })
    }
    const trimmed = window.slice(0, end).trimEnd()
    chunks.push({ text: trimmed, start, end: start + trimmed.length })
    start = skipSpace(text, start + end)
  }
  return chunks
}

function chunkEnd(
  window: string,
  isLast: boolean,
  maxTokens: number,
  measure: (end: number) => number,
  guess: () => number,
): number | undefined {
  if (isLast && measure(window.length) <= maxTokens) return window.length
  // looking twice as far as the chunk will probably reach is mostly enough
  const near = wholeCharacters(window, Math.max(LEAST_NEAR, 2 * guess()))
  const cut = bestCut(window.slice(0, near), maxTokens, measure, guess)
  if (cut && !cut.mayGoOn) return cut.end
  return bestCut(window, maxTokens, measure, guess)?.end
}

/** The end of a chunk at the best level of boundary. `mayGoOn`: all boundaries fit, so a later one might too. */
function bestCut(
  stretch: string,
  maxTokens: number,
  measure: (end: number) => number,
  guess: () => number,
): { readonly end: number; readonly mayGoOn: boolean } | undefined {
  for (const [level, boundaries] of levels.entries()) {
    // what ends with the stretch may go on beyond it
    const ends = boundaries(stretch).filter((end) => end < stretch.length)
    const best = farthestFit(ends, maxTokens, measure, guess)
    if (best && (level > 0 || best.tokens >= LEAST_PARAGRAPHS * maxTokens)) {
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

/** A word of a text, by its characters [start, end). */
export interface Word {
  readonly start: number
  readonly end: number
  /** What it may tell: a name or a number, a word long enough to tell something whatever it is, or neither. */
  readonly kind: 'name' | 'long' | 'other'
}

/** Letters from which a word tells something, whatever it is. */
const LONG = 6

const segmenter = new Intl.Segmenter('en', { granularity: 'word' })

/** The words of a text in order, in whatever script. */
export function wordsOf(text: string): Word[] {
  return [...segmenter.segment(text)]
    .filter(({ isWordLike }) => isWordLike)
    .map(({ segment, index }) => ({ start: index, end: index + segment.length, kind: kindOf(segment) }))
}

// scripts without capitals have no names to be told by, so any of their words may be one
function kindOf(word: string): Word['kind'] {
  if (/^\p{Lu}|^\p{Lo}|\p{Nd}/u.test(word)) return 'name'
  return word.length >= LONG ? 'long' : 'other'
}

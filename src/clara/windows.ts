import { ClaraError } from '../errors.ts'
import type { Tokenizer } from '../tokenizer/types.ts'
import { balancedWindows, type Window } from './balanced-windows.ts'
import type { CompressorConfig } from './config.ts'

/*
 * Pooled memory has a token for every window of a text. `even` windows have one length. `salient` ones are drawn around the
 * text's rarest tokens, so that each of them has a memory token to itself and common words share those of their neighbours.
 * `balanced` ones share out all of what the text tells: few windows hold two words that matter while others hold none.
 */

export interface WindowOptions {
  readonly config: Pick<CompressorConfig, 'proportional' | 'windows'>
  /** Text positions per memory token, where their number is proportional. */
  readonly rate: number
  /** Memory tokens per document, where their number is fixed. */
  readonly fixedCount: number
  /** Rarity of every token, standardised ('salient', 'balanced'). */
  readonly idf?: Float32Array | undefined
  /** Whether a token is digits and nothing else ('salient', 'balanced'). */
  readonly isDigits?: ((id: number) => boolean) | undefined
}

/** A number tells as much as a rather rare word, though its digits are common: idf of its first token. */
const NUMBER_IDF = -1
/** Idf of its other tokens: they are never chosen while there is something else. */
const LEAST = -1e9

/** The windows of a text, in order; together they cover it. An empty text must come with one token in its place. */
export function windows(ids: readonly number[], options: WindowOptions): Window[] {
  const even = evenWindows(ids.length, options)
  switch (options.config.windows) {
    case 'salient':
      return salientWindows(ids, even.length, options)
    case 'balanced':
      return balancedWindows(contentOf(ids, options), even.length)
    default:
      return even
  }
}

function evenWindows(length: number, { config, rate, fixedCount }: WindowOptions): Window[] {
  if (config.proportional) {
    if (!(rate >= 1 && Number.isFinite(rate))) {
      throw new ClaraError('The compression rate is out of range.', {
        expected: 'a number of at least 1, the text positions per memory token',
        received: String(rate),
      })
    }
    const count = Math.max(1, Math.ceil(length / rate))
    return Array.from({ length: count }, (_, index) => [
      Math.floor(index * rate),
      Math.min(length, Math.floor((index + 1) * rate)),
    ])
  }
  return Array.from({ length: fixedCount }, (_, index) => {
    const start = Math.floor((index * length) / fixedCount)
    return [start, Math.max(start + 1, Math.floor(((index + 1) * length) / fixedCount))]
  })
}

/**
 * The `count` rarest tokens, a number being one, are the centres; what lies between two of them is shared in the middle.
 * The window of a number begins with it, and what follows its digits goes to the next, so that they are not drowned in it.
 */
function salientWindows(ids: readonly number[], count: number, { idf, isDigits }: WindowOptions): Window[] {
  const digits = ids.map((id) => isDigits?.(id) ?? false)
  const rarity = ids.map((id, index) => {
    if (!digits[index]) return idf?.[id] ?? 0
    return digits[index - 1] ? LEAST : NUMBER_IDF
  })
  const rarest = ids.map((_, index) => index).sort((a, b) => (rarity[b] ?? 0) - (rarity[a] ?? 0) || a - b)
  const centres = rarest.slice(0, count).sort((a, b) => a - b)
  const starts = centres.map((centre, index) => {
    const before = centres[index - 1]
    if (before === undefined) return 0
    if (digits[centre]) return centre
    if (!digits[before]) return Math.ceil((before + centre) / 2)
    let end = before + 1
    while (end < centre && digits[end]) end++
    return end
  })
  return starts.map((start, index) => [start, starts[index + 1] ?? ids.length])
}

/** Idf up to which a token is a mere connection, and from which it tells as much as an ordinary word. */
const [CONNECTION_IDF, WORD_IDF] = [-4, -2]
/** What a connection tells, of what an ordinary word does. */
const CONNECTION = 0.05
/** What a token tells beyond an ordinary word, for each unit of idf. */
const RARITY = 0.3
/** What a digit tells: a year is worth two windows, and digits are common whatever they say. */
const DIGIT = 0.6

/** What each token tells, an ordinary word being 1 (`docs/LOG.md` has what else was tried). */
function contentOf(ids: readonly number[], { idf, isDigits }: WindowOptions): number[] {
  return ids.map((id) => {
    if (isDigits?.(id)) return DIGIT
    const rarity = idf?.[id] ?? 0
    const share = (rarity - CONNECTION_IDF) / (WORD_IDF - CONNECTION_IDF)
    return Math.min(1, Math.max(CONNECTION, share)) + RARITY * Math.max(0, rarity - WORD_IDF)
  })
}

/** Tells which of a tokenizer's tokens are digits and nothing else, with or without a space before them. */
export function digitsOf(tokenizer: Pick<Tokenizer, 'decode'>): (id: number) => boolean {
  const known = new Map<number, boolean>()
  return (id) => {
    const found = known.get(id) ?? /^\s*\p{Nd}+$/u.test(tokenizer.decode([id]))
    known.set(id, found)
    return found
  }
}

import { ClaraError } from '../errors.ts'
import type { Tokenizer } from '../tokenizer/types.ts'
import type { CompressorConfig } from './config.ts'

/*
 * Pooled memory has a token for every window of a text. `even` windows have one length. `salient` ones are drawn around the
 * text's rarest tokens, so that each of them has a memory token to itself and common words share those of their neighbours.
 */

/** Tokens [start, end) of a text. */
export type Window = readonly [start: number, end: number]

export interface WindowOptions {
  readonly config: Pick<CompressorConfig, 'proportional' | 'windows'>
  /** Text positions per memory token, where their number is proportional. */
  readonly rate: number
  /** Memory tokens per document, where their number is fixed. */
  readonly fixedCount: number
  /** Rarity of every token, standardised ('salient'). */
  readonly idf?: Float32Array | undefined
  /** Whether a token is digits and nothing else ('salient'). */
  readonly isDigits?: ((id: number) => boolean) | undefined
}

/** A number tells as much as a rather rare word, though its digits are common: idf of its first token. */
const NUMBER_IDF = -1
/** Idf of its other tokens: they are never chosen while there is something else. */
const LEAST = -1e9

/** The windows of a text, in order; together they cover it. An empty text must come with one token in its place. */
export function windows(ids: readonly number[], options: WindowOptions): Window[] {
  const even = evenWindows(ids.length, options)
  return options.config.windows === 'salient' ? salientWindows(ids, even.length, options) : even
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

/** Tells which of a tokenizer's tokens are digits and nothing else, with or without a space before them. */
export function digitsOf(tokenizer: Pick<Tokenizer, 'decode'>): (id: number) => boolean {
  const known = new Map<number, boolean>()
  return (id) => {
    const found = known.get(id) ?? /^\s*\p{Nd}+$/u.test(tokenizer.decode([id]))
    known.set(id, found)
    return found
  }
}

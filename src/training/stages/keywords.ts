import type { Random } from '../../data/random.ts'
import { wordsOf } from './words.ts'

/*
 * Questions for a retriever that a text asks for itself: some words of a stretch of it, most of those that tell something and few of the others, as
 * somebody might type them. Any passage teaches, and the other candidates of its question are near misses.
 */

/** Words of the stretch, drawn from [least, most]. */
const STRETCH = { least: 6, most: 28 }
/** How likely a word of the stretch is kept. */
const KEPT = { name: 0.6, long: 0.5, other: 0.25 }
/** Fewer words that tell something would fit too many texts. */
const LEAST_TELLING = 2
/** Draws a question may take before the text is taken to have none. */
const TRIES = 8

/**
 * Draws a question.
 * @param text What the memory is made of.
 * @returns Undefined where the text has too few words that tell something.
 */
export function keywordQuestion(text: string, random: Random): string | undefined {
  const words = wordsOf(text)
  for (let tries = 0; tries < TRIES && words.length > 0; tries++) {
    const length = STRETCH.least + random.int(STRETCH.most - STRETCH.least + 1)
    const first = random.int(Math.max(1, words.length - length + 1))
    const kept = words.slice(first, first + length).filter(({ kind }) => random.uniform() < KEPT[kind])
    if (kept.filter(({ kind }) => kind !== 'other').length < LEAST_TELLING) continue
    return kept.map(({ start, end }) => text.slice(start, end)).join(' ')
  }
  return undefined
}

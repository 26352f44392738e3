import { clozeQuestion } from '../../clara/prompts.ts'
import type { Random } from '../../data/random.ts'
import type { QuestionAnswer } from './samples.ts'
import { type Word, wordsOf } from './words.ts'

/*
 * Questions that a text asks of itself: a few words of it with a gap, whose filling is the answer. What memory loses are names,
 * years and rare words, so these are what is left out; and any passage will do, with or without questions of its own.
 */

/** Words on each side of a gap, drawn from [least, most]. */
const AROUND = { least: 3, most: 9 }
/** A gap takes at most so many words of a name. */
const LONGEST_NAME = 4
/** How often a word is drawn, relative to the others. */
const DRAWN = { name: 2, long: 1, other: 0 }
/** How often a word with names beside it is left out alone. */
const ALONE = 0.4
/** Draws a question may take before the text is taken to have no more. */
const TRIES = 4

/**
 * Draws at most `count` questions with different answers.
 * @param text What the memory is made of.
 */
export function clozeQuestions(text: string, count: number, random: Random): QuestionAnswer[] {
  const words = wordsOf(text)
  const telling = words.flatMap(({ kind }, index) => Array<number>(DRAWN[kind]).fill(index))
  const found = new Map<string, QuestionAnswer>()
  for (let tries = 0; tries < TRIES * count && found.size < count && telling.length > 0; tries++) {
    const [first, last] = gapAt(telling[random.int(telling.length)] ?? 0, words, text, random)
    const answer = text.slice(words[first]?.start, words[last]?.end)
    const [before, after] = [around(random), around(random)]
    const left = text.slice(words[Math.max(0, first - before)]?.start, words[first]?.start)
    const right = text.slice(words[last]?.end, words[Math.min(words.length - 1, last + after)]?.end)
    // a gap whose filling stands beside it asks for nothing
    if (!`${left}${right}`.includes(answer)) found.set(answer, { question: clozeQuestion(left, right), answer })
  }
  return [...found.values()]
}

const around = (random: Random) => AROUND.least + random.int(AROUND.most - AROUND.least + 1)

/** The first and last word of a gap: a whole name, or one word. */
function gapAt(index: number, words: readonly Word[], text: string, random: Random): [first: number, last: number] {
  if (random.uniform() < ALONE) return [index, index]
  const isName = (at: number) => words[at]?.kind === 'name'
  const joined = (at: number) => isName(at) && isName(at + 1) && /^[ -]?$/.test(between(words, at, text))
  let [first, last] = [index, index]
  while (last - first + 1 < LONGEST_NAME && joined(first - 1)) first--
  while (last - first + 1 < LONGEST_NAME && joined(last)) last++
  return [first, last]
}

const between = (words: readonly Word[], at: number, text: string) => text.slice(words[at]?.end, words[at + 1]?.start)

import { ClaraError } from '../errors.ts'

/*
 * How an answer is compared with the gold answers: the normalisation, exact match and token F1 of SQuAD (Rajpurkar et al.
 * 2016; empty answers as in SQuAD 2.0), and how a ranking is compared with the relevant documents.
 */

/** A score in [0, 1] of one prediction against one gold answer. */
export type AnswerMetric = (prediction: string, gold: string) => number

const asciiPunctuation = /[!-/:-@[-`{-~]/g
/** An article as a whole word; `\b` would see a word's end before an accented letter. */
const article = /(?<![\p{L}\p{N}_])(?:a|an|the)(?![\p{L}\p{N}_])/gu

/** SQuAD's normalisation: lower case, ASCII punctuation deleted, articles dropped, white space collapsed. */
export function normaliseAnswer(text: string): string {
  return text.toLowerCase().replace(asciiPunctuation, '').replace(article, ' ').trim().replace(/\s+/g, ' ')
}

function answerTokens(text: string): string[] {
  const normal = normaliseAnswer(text)
  return normal === '' ? [] : normal.split(' ')
}

/** 1 if both are the same after normalisation, else 0. */
export function exactMatch(prediction: string, gold: string): number {
  return normaliseAnswer(prediction) === normaliseAnswer(gold) ? 1 : 0
}

/** Harmonic mean of precision and recall over the bag of normalised words; where either is empty, 1 if both are. */
export function tokenF1(prediction: string, gold: string): number {
  const predicted = answerTokens(prediction)
  const expected = answerTokens(gold)
  if (predicted.length === 0 || expected.length === 0) return predicted.length === expected.length ? 1 : 0
  const unmatched = new Map<string, number>()
  for (const token of expected) unmatched.set(token, (unmatched.get(token) ?? 0) + 1)
  let common = 0
  for (const token of predicted) {
    const left = unmatched.get(token) ?? 0
    if (left === 0) continue
    unmatched.set(token, left - 1)
    common++
  }
  return (2 * common) / (predicted.length + expected.length)
}

/**
 * 1 if the gold answer stands in the prediction as an unbroken run of whole normalised words, else 0: credit for right
 * answers in long sentences. An empty gold answer is covered only by an empty prediction.
 */
export function coverExactMatch(prediction: string, gold: string): number {
  const predicted = normaliseAnswer(prediction)
  const expected = normaliseAnswer(gold)
  if (expected === '') return predicted === '' ? 1 : 0
  return ` ${predicted} `.includes(` ${expected} `) ? 1 : 0
}

/**
 * The best score over several gold answers.
 *
 * @throws ClaraError if there is no gold answer.
 */
export function bestOver(metric: AnswerMetric, prediction: string, golds: readonly string[]): number {
  if (golds.length === 0) {
    throw new ClaraError('The question has no gold answer to score against.', { expected: 'at least one' })
  }
  return Math.max(...golds.map((gold) => metric(prediction, gold)))
}

/** The three answer scores, each in [0, 1] and each the best over the gold answers. */
export interface AnswerScores {
  readonly exactMatch: number
  readonly f1: number
  readonly coverExactMatch: number
}

/** All answer scores of one prediction. See {@link bestOver}. */
export function scoreAnswer(prediction: string, golds: readonly string[]): AnswerScores {
  return {
    exactMatch: bestOver(exactMatch, prediction, golds),
    f1: bestOver(tokenF1, prediction, golds),
    coverExactMatch: bestOver(coverExactMatch, prediction, golds),
  }
}

/**
 * Recall@k: the share of the relevant documents among the first k of a ranking.
 *
 * @param ranking Document ids, best first.
 * @throws ClaraError if nothing is relevant or k is not a positive integer.
 */
export function recallAt(k: number, ranking: readonly string[], relevant: readonly string[]): number {
  if (!Number.isSafeInteger(k) || k < 1) {
    throw new ClaraError('The k of recall@k is not valid.', { expected: 'an integer from 1', received: String(k) })
  }
  const wanted = relevantSet(relevant)
  const first = new Set(ranking.slice(0, k))
  return [...wanted].filter((id) => first.has(id)).length / wanted.size
}

/** 1 / the place (from 1) of the first relevant document, 0 if the ranking has none. */
export function reciprocalRank(ranking: readonly string[], relevant: readonly string[]): number {
  const wanted = relevantSet(relevant)
  const index = ranking.findIndex((id) => wanted.has(id))
  return index < 0 ? 0 : 1 / (index + 1)
}

function relevantSet(relevant: readonly string[]): Set<string> {
  if (relevant.length === 0) {
    throw new ClaraError('The query has no relevant document to rank for.', {
      hint: 'Leave such queries out of the mean.',
    })
  }
  return new Set(relevant)
}

/** A ranking and what it should have found. */
export interface JudgedRanking {
  readonly ranking: readonly string[]
  readonly relevant: readonly string[]
}

/** Mean reciprocal rank (MRR) over queries; NaN without queries. */
export function meanReciprocalRank(queries: readonly JudgedRanking[]): number {
  const sum = queries.reduce((total, { ranking, relevant }) => total + reciprocalRank(ranking, relevant), 0)
  return sum / queries.length
}

/*
 * BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009, section 3.2): a row's score for a query is
 *   Σ over the query's distinct words  idf · tf · (k1 + 1) / (tf + k1 · (1 - b + b · length / mean length))
 * with idf = ln(1 + (N - df + 0.5) / (df + 0.5)), which stays positive for words that most rows have (as in Lucene).
 */

export const K1 = 1.2
export const B = 0.75

/** Rarity of a word that `frequency` of `rows` rows hold. */
export function inverseFrequency(rows: number, frequency: number): number {
  return Math.log(1 + (rows - frequency + 0.5) / (frequency + 0.5))
}

/** What one word adds to a row's score. `count`: how often the row holds it; `relativeLength`: the row's words over the mean row's. */
export function wordScore(idf: number, count: number, relativeLength: number): number {
  return (idf * count * (K1 + 1)) / (count + K1 * (1 - B + B * relativeLength))
}

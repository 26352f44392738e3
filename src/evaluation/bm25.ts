import { ClaraError } from '../errors.ts'

/*
 * Okapi BM25 (Robertson & Zaragoza 2009), the lexical baseline beside every retrieval figure:
 *   score(q, d) = Σ over query words  idf(t) · tf · (k1 + 1) / (tf + k1 · (1 - b + b · |d| / mean |d|))
 *   idf(t) = ln(1 + (N - df + ½) / (df + ½)), which is never negative.
 */

export interface Bm25Options {
  /** How soon repetition of a word saturates; default 1.2. */
  readonly k1?: number
  /** How much long documents are held back, 0 to 1; default 0.75. */
  readonly b?: number
}

export interface Bm25Hit {
  /** The document's place in the list that was indexed. */
  readonly index: number
  readonly score: number
}

export interface Bm25Index {
  /** The score of every document, in the order they were given; 0 where no word matches. */
  scores(query: string): Float64Array
  /** The documents that share a word with the query, best first, equal scores in the given order. */
  search(query: string, limit: number): Bm25Hit[]
}

/** Lower-cased runs of letters, marks and digits; no stemming, no stop words. */
export function bm25Words(text: string): string[] {
  return text.toLowerCase().match(/[\p{L}\p{M}\p{N}]+/gu) ?? []
}

/**
 * Indexes documents for BM25.
 *
 * @throws ClaraError if k1 is negative or b lies outside 0 to 1.
 */
export function indexBm25(documents: readonly string[], options: Bm25Options = {}): Bm25Index {
  const { k1 = 1.2, b = 0.75 } = options
  if (!(k1 >= 0 && Number.isFinite(k1) && b >= 0 && b <= 1)) {
    throw new ClaraError('The BM25 settings are out of range.', {
      expected: 'k1 from 0, b from 0 to 1',
      received: `k1 ${k1}, b ${b}`,
    })
  }
  const postings = new Map<string, Map<number, number>>()
  const lengths: number[] = []
  for (const [index, document] of documents.entries()) {
    const words = bm25Words(document)
    lengths.push(words.length)
    for (const word of words) {
      const posting = postings.get(word) ?? new Map<number, number>()
      posting.set(index, (posting.get(index) ?? 0) + 1)
      postings.set(word, posting)
    }
  }
  const meanLength = lengths.reduce((sum, length) => sum + length, 0) / Math.max(1, lengths.length)

  function scores(query: string): Float64Array {
    const totals = new Float64Array(documents.length)
    for (const word of bm25Words(query)) {
      const posting = postings.get(word)
      if (posting === undefined) continue
      const idf = Math.log(1 + (documents.length - posting.size + 0.5) / (posting.size + 0.5))
      for (const [index, frequency] of posting) {
        const damping = k1 * (1 - b + (b * (lengths[index] ?? 0)) / meanLength)
        totals[index] = (totals[index] ?? 0) + (idf * frequency * (k1 + 1)) / (frequency + damping)
      }
    }
    return totals
  }

  function search(query: string, limit: number): Bm25Hit[] {
    return Array.from(scores(query), (score, index) => ({ index, score }))
      .filter((hit) => hit.score > 0)
      .sort((a, b) => b.score - a.score || a.index - b.index)
      .slice(0, limit)
  }

  return { scores, search }
}

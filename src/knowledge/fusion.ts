/** Rank at which a list's say has fallen to half of what its first has (Cormack, Clarke and Büttcher 2009). */
const RANK_CONSTANT = 60

/** Names in the order of their rank, the best first, and how much the list counts. */
export interface Ranking {
  readonly ids: readonly string[]
  readonly weight: number
}

/**
 * Reciprocal rank fusion: an id scores, over the rankings that hold it, the sum of weight / (60 + rank), ranks from 1.
 * @returns All ids, the best first; equal ones by id.
 */
export function fuse(rankings: readonly Ranking[]): string[] {
  const scores = new Map<string, number>()
  for (const { ids, weight } of rankings) {
    if (weight === 0) continue
    ids.forEach((id, index) => {
      scores.set(id, (scores.get(id) ?? 0) + weight / (RANK_CONSTANT + index + 1))
    })
  }
  return [...scores].sort(([one, a], [other, b]) => b - a || (one < other ? -1 : 1)).map(([id]) => id)
}

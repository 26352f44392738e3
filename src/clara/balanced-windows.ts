/** Tokens [start, end) of a text. */
export type Window = readonly [start: number, end: number]

/** A window has at most so many tokens, or four times their mean where that is more: it bounds the search. */
const MOST_TOKENS = 24

/**
 * Parts a text into `count` windows, each of one token or more, so that the sum over the windows of (what is in it)² is least: what tells much
 * is spread over as many windows as it can be, and what tells little goes with it for nothing. Exact, by dynamic programming.
 *
 * @param content What each token tells, from 0.
 * @param count At most as many as there are tokens.
 */
export function balancedWindows(content: readonly number[], count: number): Window[] {
  const length = content.length
  const before = new Float64Array(length + 1)
  for (const [index, value] of content.entries()) before[index + 1] = (before[index] ?? 0) + value
  const most = Math.max(MOST_TOKENS, 4 * Math.ceil(length / count))
  // least costs of the first `end` tokens in as many windows as there are passes so far, and where the last of these windows starts
  let least = new Float64Array(length + 1).fill(Number.POSITIVE_INFINITY)
  least[0] = 0
  const starts: Int32Array[] = []
  for (let parts = 1; parts <= count; parts++) {
    const next = new Float64Array(length + 1).fill(Number.POSITIVE_INFINITY)
    const start = new Int32Array(length + 1)
    for (let end = parts; end <= length - (count - parts); end++) {
      for (let from = Math.max(parts - 1, end - most); from < end; from++) {
        const inside = (before[end] ?? 0) - (before[from] ?? 0)
        const cost = (least[from] ?? 0) + inside * inside
        if (cost < (next[end] ?? 0)) {
          next[end] = cost
          start[end] = from
        }
      }
    }
    starts.push(start)
    least = next
  }
  const found: Window[] = []
  let end = length
  for (const start of starts.reverse()) {
    const from = start[end] ?? 0
    found.push([from, end])
    end = from
  }
  return found.reverse()
}

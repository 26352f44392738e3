import { ClaraError } from '../errors.ts'

/** How many of the best passages the generator reads as text, beside the memory of the rest. */
export type Expand = number | 'auto'

/** `auto` reads at most this many as text: what memory saves must not be spent again. */
const MOST_EXPANDED = 3

/**
 * How many passages to read as text. `auto`: those above the largest gap between the scores, at most {@link MOST_EXPANDED}; when no passage
 * stands out, the best alone.
 * @param scores The model's own scores of the passages.
 * @throws ClaraError when the number is none.
 */
export function expandCount(expand: Expand, scores: readonly number[]): number {
  if (expand === 'auto') {
    const sorted = [...scores].sort((one, other) => other - one)
    let [count, largest] = [1, 0]
    for (let above = 1; above <= MOST_EXPANDED && above < sorted.length; above++) {
      const gap = (sorted[above - 1] ?? 0) - (sorted[above] ?? 0)
      if (gap > largest) [count, largest] = [above, gap]
    }
    return Math.min(scores.length, count)
  }
  if (Number.isSafeInteger(expand) && expand >= 0) return Math.min(expand, scores.length)
  throw new ClaraError(`expand cannot be ${String(expand)}.`, { expected: "an integer from 0, or 'auto'" })
}

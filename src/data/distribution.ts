/** A list of numbers in short. All are 0 for an empty list. */
export interface Distribution {
  readonly mean: number
  readonly p50: number
  readonly p90: number
  readonly p99: number
  readonly max: number
}

/** Mean, percentiles (nearest rank: the least value that so many per cent do not exceed) and maximum. */
export function distribution(values: readonly number[]): Distribution {
  const sorted = [...values].sort((left, right) => left - right)
  const percentile = (percent: number) => sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)] ?? 0
  const sum = sorted.reduce((total, value) => total + value, 0)
  return {
    mean: sorted.length === 0 ? 0 : sum / sorted.length,
    p50: percentile(50),
    p90: percentile(90),
    p99: percentile(99),
    max: sorted.at(-1) ?? 0,
  }
}

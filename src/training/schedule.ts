/** How the learning rate runs over a training run. */
export interface LearningRateSchedule {
  /** `cosine`: from the peak down to the minimum; `constant`: stays at the peak. Both after the warm-up. */
  readonly shape: 'cosine' | 'constant'
  readonly peak: number
  /** Reached at the last update (cosine only). */
  readonly minimum: number
  /** Updates of linear warm-up; the last of them runs at the peak. */
  readonly warmupUpdates: number
  /** Updates in all. */
  readonly updates: number
}

/**
 * The learning rate of an update. A function of the count alone, never of time, so that a resumed run continues alike.
 * @param update Number of the update, from 1 to `updates`; past the end the last value holds.
 */
export function learningRateAt(update: number, schedule: LearningRateSchedule): number {
  const { shape, peak, minimum, warmupUpdates, updates } = schedule
  if (update < warmupUpdates) return (peak * update) / warmupUpdates
  if (shape === 'constant') return peak
  const progress = Math.min(1, (update - warmupUpdates) / Math.max(1, updates - warmupUpdates))
  return minimum + (peak - minimum) * 0.5 * (1 + Math.cos(Math.PI * progress))
}

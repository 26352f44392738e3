/** Milliseconds that an action takes. */
export async function milliseconds(action: () => Promise<unknown>): Promise<number> {
  const start = performance.now()
  await action()
  return performance.now() - start
}

/** The middle of some numbers; the mean of the two middle ones where their count is even. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length / 2
  const [low, high] = [sorted[Math.ceil(middle) - 1], sorted[Math.floor(middle)]]
  if (low === undefined || high === undefined) throw new RangeError('There is no median of no values.')
  return (low + high) / 2
}

/**
 * Times actions in turn, so that a machine that slows down slows down all of them: one uncounted round, then `repetitions`.
 * @returns Milliseconds by name, one entry a round.
 */
export async function inTurn<Name extends string>(
  repetitions: number,
  actions: Readonly<Record<Name, () => Promise<unknown>>>,
): Promise<Record<Name, number[]>> {
  const names = Object.keys(actions) as Name[]
  const times = Object.fromEntries(names.map((name) => [name, [] as number[]])) as Record<Name, number[]>
  for (const name of names) await actions[name]()
  for (let round = 0; round < repetitions; round++) {
    for (const name of names) times[name].push(await milliseconds(actions[name]))
  }
  return times
}

/** The median over the rounds of one figure computed from each round's times. */
export function medianOf<Name extends string>(
  times: Readonly<Record<Name, readonly number[]>>,
  figure: (round: Readonly<Record<Name, number>>) => number,
): number {
  const names = Object.keys(times) as Name[]
  const rounds = times[names[0] as Name].length
  return median(
    Array.from({ length: rounds }, (_, round) =>
      figure(Object.fromEntries(names.map((name) => [name, times[name][round]])) as Record<Name, number>),
    ),
  )
}

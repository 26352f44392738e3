/** How a transfer of bytes is shown: a bar, how much, how fast, how long still. */

const barWidth = 20
/** Seconds over which the rate is averaged. */
const window = 10
const sampleMs = 100

const units = ['kB', 'MB', 'GB', 'TB']

/** Bytes as `512 B`, `3.4 MB`, `14.5 GB`; a thousand makes the next unit, as disks and networks are sold. */
export function formatBytes(bytes: number): string {
  if (bytes < 1000) return `${Math.round(bytes)} B`
  let value = bytes / 1000
  let unit = 0
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000
    unit++
  }
  return `${value.toFixed(value < 99.95 ? 1 : 0)} ${units[unit]}`
}

/** Seconds as `40 s`, `12 min` or `4 h 05 min`. */
export function formatDuration(seconds: number): string {
  const minutes = Math.round(seconds / 60)
  if (minutes >= 60) return `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`
  return seconds >= 90 ? `${minutes} min` : `${Math.ceil(seconds)} s`
}

export interface TransferMeter {
  /** Notes that so many bytes are there now. */
  at(done: number): void
  /** Bytes that were there before count as done, not as speed: starts the measurement anew. */
  rest(): void
  /** Bytes a second over the last seconds; undefined before there is anything to measure. */
  rate(): number | undefined
}

/** @param now Milliseconds; tests give their own clock. */
export function transferMeter(now: () => number = () => performance.now()): TransferMeter {
  let samples: { readonly time: number; readonly done: number }[] = []
  return {
    at(done) {
      const time = now()
      const last = samples.at(-1)
      if (last !== undefined && done < last.done) samples = []
      // Tens of thousands of pieces may come in a window; a sample every tenth of a second is enough.
      if (samples.length > 1 && time - (samples.at(-2)?.time ?? 0) < sampleMs) samples.pop()
      samples.push({ time, done })
      // The oldest sample is the last one outside the window, so that a slow transfer has a rate too.
      while ((samples[1]?.time ?? time) <= time - window * 1000) samples.shift()
    },
    rest() {
      samples = []
    },
    rate() {
      const [first, last] = [samples[0], samples.at(-1)]
      if (!first || !last || last.time <= first.time) return undefined
      return ((last.done - first.done) / (last.time - first.time)) * 1000
    },
  }
}

/** One line: `[████····] 42 %  6.1 of 14.5 GB  31.0 MB/s  5 min left`. */
export function transferLine(done: number, total: number, rate: number | undefined): string {
  const share = total === 0 ? 1 : Math.min(1, done / total)
  const filled = Math.floor(share * barWidth)
  const bar = `[${'█'.repeat(filled)}${'·'.repeat(barWidth - filled)}]`
  const amount = `${Math.floor(share * 100)} %  ${formatBytes(done)} of ${formatBytes(total)}`
  if (rate === undefined || rate <= 0) return `${bar} ${amount}`
  return `${bar} ${amount}  ${formatBytes(rate)}/s  ${formatDuration((total - done) / rate)} left`
}

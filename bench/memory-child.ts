/** A process of its own, so that its memory is its own: trains as its argument says and prints the most it ever held. */
import { readFileSync } from 'node:fs'
import type { TrainingSizes } from './engine/sizes.ts'
import { trainInLittleMemory } from './engine/training.ts'

const { base, sizes, threads, steps }: { base: string; sizes: TrainingSizes; threads: number; steps: number } =
  JSON.parse(process.argv[2] ?? '')
await trainInLittleMemory(base, sizes, threads, steps)
process.stdout.write(`${JSON.stringify({ peakMiB: peakKiB() / 1024 })}\n`)

/** Where there is /proc it tells this program's peak; the usage that other systems report may be the parent's before it began. */
function peakKiB(): number {
  try {
    const peak = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))
    if (peak) return Number(peak[1])
  } catch {
    // no /proc here
  }
  return process.resourceUsage().maxRSS
}

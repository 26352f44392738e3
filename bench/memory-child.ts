/** A process of its own, so that its memory is its own: trains as its argument says and prints the most it ever held. */
import type { TrainingSizes } from './engine/sizes.ts'
import { trainInLittleMemory } from './engine/training.ts'
import { peakMiB } from './peak.ts'

const { base, sizes, threads, steps }: { base: string; sizes: TrainingSizes; threads: number; steps: number } =
  JSON.parse(process.argv[2] ?? '')
await trainInLittleMemory(base, sizes, threads, steps)
process.stdout.write(`${JSON.stringify({ peakMiB: peakMiB() })}\n`)

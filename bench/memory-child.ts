/** A process of its own, so that its memory is its own: trains as its argument says and prints the most it ever held. */
import { answerParent } from './child.ts'
import type { TrainingSizes } from './engine/sizes.ts'
import { trainInLittleMemory } from './engine/training.ts'
import { peakMiB } from './peak.ts'

interface TrainingRun {
  readonly base: string
  readonly sizes: TrainingSizes
  readonly threads: number
  readonly steps: number
}

await answerParent(async ({ base, sizes, threads, steps }: TrainingRun) => {
  await trainInLittleMemory(base, sizes, threads, steps)
  return { peakMiB: peakMiB() }
})

import { z } from 'zod'
import { runChild } from '../child.ts'
import type { TrainingSizes } from './sizes.ts'

const STEPS = 3

const peakFigures = z.object({ peakMiB: z.number() })

export interface MemoryFigures {
  /** Resident memory of the process at its highest. */
  readonly trainPeakMiB: number
}

/** Peak memory of a process that trains a few steps of stage 1 in the memory-saving mode. */
export async function measureMemory(options: {
  base: string
  sizes: TrainingSizes
  threads: number
}): Promise<MemoryFigures> {
  const figures = await runChild('./memory-child.ts', { ...options, steps: STEPS })
  return { trainPeakMiB: peakFigures.parse(figures).peakMiB }
}

import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import type { TrainingSizes } from './sizes.ts'

const STEPS = 3

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
  const program = fileURLToPath(new URL('../memory-child.ts', import.meta.url))
  const argument = JSON.stringify({ ...options, steps: STEPS })
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', program, argument])
  return { trainPeakMiB: JSON.parse(stdout).peakMiB }
}

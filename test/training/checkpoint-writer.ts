// Started as a process of its own by checkpoint.test.ts, to be killed or to run into a limit: writes one checkpoint after another.
import { type TrainingCheckpoint, writeCheckpoint } from '../../src/training/checkpoint.ts'

/** A checkpoint whose every number is its step, so that a mixture of two is seen. */
export function uniformCheckpoint(step: number, length: number): Omit<TrainingCheckpoint, 'folder'> {
  const arrays = () =>
    new Map([
      ['a', new Float32Array(length).fill(step)],
      ['b', new Float32Array(3).fill(step)],
    ])
  return {
    state: { version: 1, step, samples: step * 8, seconds: step, batches: { position: step }, config: { seed: 1 } },
    parameters: arrays(),
    moments: { first: arrays(), second: arrays() },
  }
}

const [, , mode, folder = '', first = '1', length = '1000'] = process.argv
if (mode === 'write-checkpoints') {
  for (let step = Number(first); ; step++) {
    await writeCheckpoint(folder, uniformCheckpoint(step, Number(length)), 2)
    process.stdout.write(`${step}\n`)
  }
}

import { z } from 'zod'
import { ClaraError } from '../errors.ts'
import { createRandom, deriveSeed, type Random } from './random.ts'
import type { ResumableStream } from './stream.ts'

/** How one epoch is cut into batches. */
export interface BatchingOptions {
  /** Length of every item, in whatever unit padding costs (tokens). The item's index is its name. */
  readonly lengths: readonly number[]
  /** Items a batch; only the last batch of an epoch may hold fewer. */
  readonly batchSize: number
  /**
   * How many batches' worth of shuffled items are sorted by length together (default 50). Larger pads less; smaller
   * mixes more from epoch to epoch.
   */
  readonly poolBatches?: number
}

/**
 * One epoch: every index exactly once, items of similar length together, batches in random order. Shuffling comes
 * first, so that other items meet in each epoch.
 */
export function epochBatches(options: BatchingOptions, random: Random): number[][] {
  const { lengths, batchSize, poolBatches = 50 } = options
  if (!Number.isInteger(batchSize) || batchSize < 1) {
    throw new ClaraError('The batch size is not usable.', {
      expected: 'an integer of at least 1',
      received: `${batchSize}`,
    })
  }
  const order = random.shuffle(lengths.map((_, index) => index))
  const poolSize = batchSize * Math.max(1, Math.floor(poolBatches))
  const batches: number[][] = []
  for (let start = 0; start < order.length; start += poolSize) {
    const pool = order.slice(start, start + poolSize)
    pool.sort((left, right) => (lengths[left] ?? 0) - (lengths[right] ?? 0))
    for (let first = 0; first < pool.length; first += batchSize) batches.push(pool.slice(first, first + batchSize))
  }
  return random.shuffle(batches)
}

const batchStreamState = z.strictObject({
  fingerprint: z.number().int(),
  epoch: z.number().int().nonnegative(),
  position: z.number().int().nonnegative(),
})

/**
 * Endless batches of indices: epoch after epoch, each freshly shuffled from (seed, epoch). The state is two numbers
 * and a fingerprint of the lengths.
 */
export function batchStream(options: BatchingOptions & { readonly seed: number }): ResumableStream<readonly number[]> {
  const { lengths, batchSize, seed } = options
  if (lengths.length === 0) {
    throw new ClaraError('There is nothing to make batches from.', { expected: 'at least one item', received: 'none' })
  }
  const fingerprint = deriveSeed(seed, batchSize, lengths.length, checksum(lengths))
  const batchesOf = (epoch: number) => epochBatches(options, createRandom(deriveSeed(seed, epoch)))
  let epoch = 0
  let position = 0
  let batches = batchesOf(0)

  return {
    next() {
      if (position >= batches.length) {
        epoch += 1
        position = 0
        batches = batchesOf(epoch)
      }
      const batch = batches[position] ?? []
      position += 1
      return batch
    },
    state: () => ({ fingerprint, epoch, position }),
    restore(state) {
      const saved = batchStreamState.safeParse(state)
      if (!saved.success || saved.data.fingerprint !== fingerprint) {
        throw new ClaraError('The saved position in the training data belongs to other data.', {
          expected: `the state of ${lengths.length} items in batches of ${batchSize}, fingerprint ${fingerprint}`,
          received: saved.success ? `fingerprint ${saved.data.fingerprint}` : 'something else',
          hint: 'Resume with the same data files, batch size and seed, or start a new run.',
        })
      }
      epoch = saved.data.epoch
      position = saved.data.position
      batches = batchesOf(epoch)
    },
  }
}

/** Order-dependent checksum of the lengths, one 32-bit word. */
function checksum(lengths: readonly number[]): number {
  let sum = 0
  for (const length of lengths) sum = (Math.imul(sum, 31) + length) | 0
  return sum >>> 0
}

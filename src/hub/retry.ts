import { setTimeout as sleep } from 'node:timers/promises'
import { TransientError } from './failures.ts'
import type { Connection, Patience } from './http.ts'

export const defaultPatience: Patience = {
  attempts: 6,
  stallSeconds: 60,
  longestWait: 120,
  pause: async (seconds, signal) => {
    await sleep(seconds * 1000, undefined, signal === undefined ? {} : { signal })
  },
}

/** Seconds to wait after so many failures in a row: 1, 2, 4, … 30, or what the server asked for. */
function waitAfter(failures: number, error: TransientError, { longestWait }: Patience): number {
  return Math.min(error.retryAfter ?? Math.min(2 ** (failures - 1), 30), longestWait)
}

export interface RetryOptions {
  /** Whether the attempt that failed got further than all before it: failures then count from one again. */
  readonly gained?: () => boolean
  /** Whether to repeat after this failure. Default: always. */
  readonly repeats?: (error: TransientError) => boolean
}

/**
 * Repeats `work` while it fails for reasons that may pass.
 *
 * @throws What `work` threw last.
 */
export async function withRetries<T>(
  { patience, signal }: Connection,
  work: () => Promise<T>,
  { gained = () => false, repeats = () => true }: RetryOptions = {},
): Promise<T> {
  for (let failures = 0; ; ) {
    try {
      return await work()
    } catch (error) {
      if (!(error instanceof TransientError) || !repeats(error)) throw error
      failures = gained() ? 1 : failures + 1
      if (failures >= patience.attempts) throw error
      await patience.pause(waitAfter(failures, error, patience), signal)
    }
  }
}

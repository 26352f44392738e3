import { createHash } from 'node:crypto'
import { stat } from 'node:fs/promises'
import { basename } from 'node:path'
import { openPositioned } from './file.ts'

/** Places at which a file is looked into, and how many bytes are read there. */
const [SAMPLES, SAMPLE_BYTES] = [64, 4096]
/** Bytes at the start, which hold most files' lists of what is in them. */
const HEAD_BYTES = 1 << 20

/**
 * SHA-256 (hex) over name, size, time of the last change, start and some samples of files: reads a few hundred kilobytes of a file
 * of any size. Another copy of a file is another state; a file that was changed is one too, unless its changer set the time back
 * and changed no sample.
 */
export async function filesIdentity(paths: readonly string[]): Promise<string> {
  const digest = createHash('sha256')
  for (const path of paths) {
    const { size, mtimeMs } = await stat(path)
    digest.update(`${JSON.stringify([basename(path), size, mtimeMs])}\n`)
    const file = await openPositioned(path)
    try {
      digest.update(await file.read(0, Math.min(size, HEAD_BYTES)))
      for (let sample = 1; sample <= SAMPLES; sample++) {
        const end = Math.floor((size / SAMPLES) * sample)
        const start = Math.max(0, end - SAMPLE_BYTES)
        digest.update(await file.read(start, end - start))
      }
    } finally {
      await file.close()
    }
  }
  return digest.digest('hex')
}

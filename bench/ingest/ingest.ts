import { join } from 'node:path'
import { z } from 'zod'
import { runChild } from '../child.ts'
import { readPassages } from '../store/material.ts'
import { measureOverhead } from './overhead.ts'
import type { PeakOptions } from './peak.ts'
import type { IngestSizes } from './sizes.ts'
import { measureTwice } from './twice.ts'

export interface IngestOptions {
  /** Folder of the model. */
  readonly model: string
  /** JSON lines of questions with candidate passages. */
  readonly train: readonly string[]
  readonly threads: number
  /** Folder for stores and documents. */
  readonly work: string
  readonly sizes: IngestSizes
  /** Memory of a passage that the stub makes: tokens and their width. */
  readonly shape: readonly [tokens: number, width: number]
}

/** All figures of adding, as `npm run bench -- ingest --json` prints them. docs/store.md says what each is. */
export interface IngestFigures {
  readonly threads: number
  readonly ingest: {
    readonly overhead: number
    readonly passagesPerSecond: number
    readonly secondOverFirst: number
    readonly firstSeconds: number
    readonly secondSeconds: number
    /** Most memory of a process that adds many passages / few. */
    readonly peakRatio: number
    readonly peakMiB: { readonly few: number; readonly many: number }
  }
}

const peakFigures = z.object({ peakMiB: z.number(), compressed: z.number() })

/** @param report Told what is being measured, for people who wait. */
export async function measureIngest(
  { model, train, threads, work, sizes, shape }: IngestOptions,
  report: (measuring: string) => void,
): Promise<IngestFigures> {
  const { files, passagesPerFile, peak } = sizes
  const texts = await readPassages(train, Math.max(sizes.passages, files * passagesPerFile))
  report('adding passages')
  const overhead = await measureOverhead(model, texts.slice(0, sizes.passages), threads, work)
  report('adding a folder twice')
  const twice = await measureTwice(model, texts, { files, passagesPerFile }, work)
  const peaks: number[] = []
  for (const passages of peak) {
    report(`memory of adding ${passages} passages`)
    const asked: PeakOptions = { passages, shape, store: join(work, `peak-${passages}`) }
    const found = peakFigures.parse(await runChild('./ingest-child.ts', asked))
    if (found.compressed !== passages) throw new RangeError(`${found.compressed} of ${passages} passages were added.`)
    peaks.push(found.peakMiB)
  }
  const [few = Number.NaN, many = Number.NaN] = peaks
  return { threads, ingest: { ...overhead, ...twice, peakRatio: many / few, peakMiB: { few, many } } }
}

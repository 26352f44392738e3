import { appendFileSync } from 'node:fs'
import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { writeFileAtomic } from '../checkpoint/atomic.ts'
import { ClaraError } from '../errors.ts'

const lineSchema = z.strictObject({
  /** Optimizer updates done. */
  step: z.number().int().nonnegative(),
  kind: z.enum(['training', 'evaluation']),
  /** Figures by name; null where one was not finite, as JSON has no NaN. */
  values: z.record(z.string(), z.number().nullable()),
})

/** One line of metrics.jsonl. */
export type MetricsLine = z.output<typeof lineSchema>

/** metrics.jsonl of a run. */
export function metricsPath(runFolder: string): string {
  return join(runFolder, 'metrics.jsonl')
}

/** Appends one line, whole, before it returns: a killed process loses at most the line in flight. */
export function appendMetrics(runFolder: string, line: MetricsLine): void {
  try {
    appendFileSync(metricsPath(runFolder), `${JSON.stringify(line)}\n`)
  } catch (cause) {
    throw new ClaraError(`The metrics of step ${line.step} could not be written to ${metricsPath(runFolder)}.`, {
      received: (cause as Error).message,
      hint: 'Make room on the disk, then go on from the last checkpoint with --resume.',
      cause,
    })
  }
}

/**
 * Gets the file ready for a run that stands at `step`: lines past it (a resumed run repeats those steps) and a half-written
 * last line are dropped.
 */
export async function startMetrics(runFolder: string, step: number): Promise<void> {
  await mkdir(runFolder, { recursive: true })
  const kept = (await readMetrics(runFolder)).filter((line) => line.step <= step)
  await writeFileAtomic(metricsPath(runFolder), kept.map((line) => `${JSON.stringify(line)}\n`).join(''))
}

/** All lines of a run, in order; empty when there are none. Lines that are not whole are left out. */
export async function readMetrics(runFolder: string): Promise<MetricsLine[]> {
  let text: string
  try {
    text = await readFile(metricsPath(runFolder), 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
  return text.split('\n').flatMap((line) => parseLine(line) ?? [])
}

function parseLine(line: string): MetricsLine | undefined {
  try {
    return lineSchema.safeParse(JSON.parse(line)).data
  } catch {
    return undefined
  }
}

import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { mkdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { writeFileAtomic } from '../checkpoint/atomic.ts'
import { ClaraError } from '../errors.ts'
import { checkpointSteps } from './checkpoint.ts'
import type { TrainingConfig } from './config.ts'
import { environment, environmentSchema } from './environment.ts'

/* What a run's folder says of how the run came about: config.json, environment.json and data.json, beside its metrics and checkpoints. */

const sessionSchema = environmentSchema.extend({
  /** When the session began, ISO 8601. */
  started: z.string(),
  /** Updates done before it. */
  step: z.number().int().nonnegative(),
})
const sessionsSchema = z.object({ sessions: z.array(sessionSchema) })
const dataSchema = z.object({
  files: z.array(z.object({ file: z.string(), bytes: z.number().int().nonnegative(), sha256: z.string() })),
})

/** Where and with what a sitting of a run computed. */
export type TrainingSession = z.output<typeof sessionSchema>

/** The content of a data file. */
export type DataFingerprint = z.output<typeof dataSchema>['files'][number]

/** What the record needs of a run's settings. */
type RecordedConfig = Pick<TrainingConfig, 'output' | 'data' | 'evaluation'> & {
  readonly threads?: number | undefined
}

/**
 * Records settings, environment and the data's fingerprints in a run's folder; of a resumed run, checks that the data is what
 * it was, and adds the environment of the new session.
 * @throws ClaraError that names a data file that has changed since the run began, or cannot be read.
 */
export async function recordRun(config: RecordedConfig, resume: boolean): Promise<void> {
  const folder = config.output
  const steps = await checkpointSteps(folder)
  // a folder with another run is left alone: the trainer refuses it
  if (!resume && steps.length > 0) return
  const files = [...new Set(dataFilesOf(config))]
  const found = await Promise.all(files.map(fingerprint))
  const recorded = resume ? await readDataFingerprints(folder) : undefined
  if (recorded) checkUnchanged(recorded, found, folder)
  await mkdir(folder, { recursive: true })
  if (!resume) await writeJson(join(folder, 'config.json'), config)
  if (!recorded) await writeJson(join(folder, 'data.json'), { files: found })
  const earlier = resume ? await readSessions(folder) : []
  const session = { ...(await environment(config.threads)), started: new Date().toISOString(), step: steps.at(-1) ?? 0 }
  await writeJson(join(folder, 'environment.json'), { sessions: [...earlier, session] })
}

/** The sessions of a run, oldest first; empty where none are recorded. */
export async function readSessions(runFolder: string): Promise<TrainingSession[]> {
  return (await readJson(join(runFolder, 'environment.json'), sessionsSchema))?.sessions ?? []
}

/** Fingerprints of a run's data as it began; undefined where none are recorded. */
export async function readDataFingerprints(runFolder: string): Promise<DataFingerprint[] | undefined> {
  return (await readJson(join(runFolder, 'data.json'), dataSchema))?.files
}

function dataFilesOf({ data, evaluation }: RecordedConfig): string[] {
  return [...data, ...evaluation.data].flatMap(({ file, without = [] }) => [file, ...without])
}

async function fingerprint(file: string): Promise<DataFingerprint> {
  const hash = createHash('sha256')
  let bytes = 0
  try {
    for await (const chunk of createReadStream(file) as AsyncIterable<Buffer>) {
      hash.update(chunk)
      bytes += chunk.length
    }
  } catch (cause) {
    throw new ClaraError(`${file}: the file cannot be read (${(cause as NodeJS.ErrnoException).code ?? 'unknown'}).`, {
      expected: 'a readable .jsonl or .jsonl.gz file',
      cause,
    })
  }
  return { file, bytes, sha256: hash.digest('hex') }
}

function checkUnchanged(recorded: readonly DataFingerprint[], found: readonly DataFingerprint[], folder: string): void {
  const before = new Map(recorded.map((entry) => [entry.file, entry]))
  const changed = found.filter(({ file, sha256 }) => before.has(file) && before.get(file)?.sha256 !== sha256)
  const [first] = changed
  if (!first) return
  throw new ClaraError(
    `The data has changed since the run in ${folder} began: ${changed.map(({ file }) => file).join(', ')}.`,
    {
      expected: `${before.get(first.file)?.bytes} bytes with the SHA-256 ${before.get(first.file)?.sha256}`,
      received: `${first.bytes} bytes with ${first.sha256}`,
      hint: 'Put the old file back to go on, or start a new run in another output folder.',
    },
  )
}

async function writeJson(path: string, value: unknown): Promise<void> {
  await writeFileAtomic(path, `${JSON.stringify(value, null, 2)}\n`)
}

/** A file of our own, checked; undefined when there is none. */
async function readJson<Schema extends z.ZodType>(path: string, schema: Schema): Promise<z.output<Schema> | undefined> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
  try {
    return schema.parse(JSON.parse(text))
  } catch (cause) {
    throw new ClaraError(`${path} is damaged.`, { hint: 'Remove it: the run can do without it.', cause })
  }
}

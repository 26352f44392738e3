import { mkdir, readdir, readFile, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { writeFileAtomic } from '../checkpoint/atomic.ts'
import { openSafetensors, writeSafetensors } from '../checkpoint/safetensors.ts'
import type { JsonValue } from '../data/stream.ts'
import { ClaraError } from '../errors.ts'
import { float32, type HostTensor } from '../graph/dtype.ts'
import { firstNonFinite } from './clip.ts'
import type { AdamWMoments, NamedArrays } from './optimizer.ts'

/** `z.json()` with our own read-only type. */
const json: z.ZodType<JsonValue> = z.json()

const stateSchema = z.strictObject({
  version: z.literal(1),
  /** Optimizer updates done. */
  step: z.number().int().nonnegative(),
  /** Samples trained on so far. */
  samples: z.number().nonnegative(),
  /** Seconds of training so far, over all sessions. */
  seconds: z.number().nonnegative(),
  /** Where the batch source stands. */
  batches: json,
  /** The best evaluation so far; its step has a checkpoint of its own. */
  best: z.strictObject({ step: z.number().int().nonnegative(), metric: z.string(), value: z.number() }).optional(),
  /** Evaluations since the best one, for early stopping; absent before there was one. */
  sinceBest: z.number().int().nonnegative().optional(),
  /** The run's settings, to compare with those of a resumed run. */
  config: json,
})

/** Everything beside the numbers that a run needs to go on. */
export type TrainingState = z.output<typeof stateSchema>

/** A checkpoint read back. */
export interface TrainingCheckpoint {
  readonly folder: string
  readonly state: TrainingState
  readonly parameters: NamedArrays
  readonly moments: AdamWMoments
}

const stepFolder = /^step-(\d{6,})$/
/** Unfinished folders carry this ending, and are never read. */
const unfinished = '.tmp'

/** `checkpoints/step-000123` of a run. */
export function checkpointFolder(runFolder: string, step: number): string {
  return join(runFolder, 'checkpoints', `step-${String(step).padStart(6, '0')}`)
}

/** Steps of a run's complete checkpoints, ascending. */
export async function checkpointSteps(runFolder: string): Promise<number[]> {
  let names: string[]
  try {
    names = await readdir(join(runFolder, 'checkpoints'))
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
  return names
    .flatMap((name) => stepFolder.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((left, right) => left - right)
}

/**
 * Writes a checkpoint: all files into a temporary folder, which then gets its name at once, so that a process killed at
 * any moment leaves the previous checkpoint as the last complete one. Afterwards the older ones are removed, except the
 * newest `keep` and the best.
 * @returns The checkpoint's folder.
 * @throws ClaraError when a parameter is not finite, the disk is full or the folder cannot be written; earlier
 *   checkpoints stay.
 */
export async function writeCheckpoint(
  runFolder: string,
  checkpoint: Omit<TrainingCheckpoint, 'folder'>,
  keep: number,
): Promise<string> {
  const { state, parameters, moments } = checkpoint
  const broken = firstNonFinite(parameters)
  if (broken !== undefined) {
    throw new ClaraError(`Parameter "${broken}" is not finite after step ${state.step}; no checkpoint was written.`, {
      hint: 'Resume from the last checkpoint with a smaller learning rate in a new run.',
    })
  }
  const folder = checkpointFolder(runFolder, state.step)
  const temporary = `${folder}${unfinished}`
  try {
    await removeUnfinished(runFolder)
    await mkdir(temporary, { recursive: true })
    await writeSafetensors(join(temporary, 'parameters.safetensors'), toTensors(parameters))
    await writeSafetensors(
      join(temporary, 'moments.safetensors'),
      new Map([...toTensors(moments.first, 'first.'), ...toTensors(moments.second, 'second.')]),
    )
    await writeFileAtomic(join(temporary, 'state.json'), `${JSON.stringify(state, null, 2)}\n`)
    await rename(temporary, folder)
  } catch (cause) {
    // Cleaning up is worth a try, but the failure to report is the first one.
    await rm(temporary, { recursive: true, force: true }).catch(() => undefined)
    throw new ClaraError(`The checkpoint of step ${state.step} could not be written to ${folder}.`, {
      received: (cause as Error).message,
      hint: 'Earlier checkpoints are intact: make room on the disk, then go on with --resume.',
      cause,
    })
  }
  const steps = await checkpointSteps(runFolder)
  for (const step of steps.slice(0, -keep)) {
    if (step !== state.best?.step) await rm(checkpointFolder(runFolder, step), { recursive: true, force: true })
  }
  return folder
}

/** The newest complete checkpoint of a run; undefined when there is none. */
export async function readLastCheckpoint(runFolder: string): Promise<TrainingCheckpoint | undefined> {
  const step = (await checkpointSteps(runFolder)).at(-1)
  return step === undefined ? undefined : readCheckpoint(checkpointFolder(runFolder, step))
}

/** What the newest complete checkpoint of a run says, without its parameters; undefined when there is none. */
export async function readLastState(
  runFolder: string,
): Promise<Pick<TrainingCheckpoint, 'folder' | 'state'> | undefined> {
  const step = (await checkpointSteps(runFolder)).at(-1)
  if (step === undefined) return undefined
  const folder = checkpointFolder(runFolder, step)
  return { folder, state: await readState(join(folder, 'state.json')) }
}

const patienceSchema = z.object({ evaluation: z.object({ patience: z.number() }) })

/** Whether early stopping has ended a run whose last checkpoint says so. */
export function isImpatient({ sinceBest = 0, config }: TrainingState): boolean {
  const settings = patienceSchema.safeParse(config)
  return settings.success && sinceBest >= settings.data.evaluation.patience
}

/** Whether early stopping has ended the run in a folder. */
export async function stoppedEarly(runFolder: string): Promise<boolean> {
  const last = await readLastState(runFolder)
  return last !== undefined && isImpatient(last.state)
}

/** The checkpoint with the best evaluation, as the newest one remembers it; undefined before the first evaluation. */
export async function readBestCheckpoint(runFolder: string): Promise<TrainingCheckpoint | undefined> {
  const last = await readLastCheckpoint(runFolder)
  const best = last?.state.best
  return best === undefined ? undefined : readCheckpoint(checkpointFolder(runFolder, best.step))
}

/**
 * Reads one checkpoint folder.
 * @throws ClaraError when a file is missing or damaged.
 */
export async function readCheckpoint(folder: string): Promise<TrainingCheckpoint> {
  const state = await readState(join(folder, 'state.json'))
  const parameters = await readArrays(join(folder, 'parameters.safetensors'))
  const moments = await readArrays(join(folder, 'moments.safetensors'))
  return {
    folder,
    state,
    parameters,
    moments: { first: withPrefix(moments, 'first.'), second: withPrefix(moments, 'second.') },
  }
}

async function readState(path: string): Promise<TrainingState> {
  let value: unknown
  try {
    value = JSON.parse(await readFile(path, 'utf8'))
  } catch (cause) {
    throw new ClaraError(`The training state ${path} cannot be read.`, { received: (cause as Error).message, cause })
  }
  const parsed = stateSchema.safeParse(value)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  throw new ClaraError(`The training state ${path} is damaged: ${issue?.path.join('.')}: ${issue?.message}.`, {
    hint: 'Remove this checkpoint folder to resume from the one before.',
  })
}

/** Leftovers of a process that was killed while it wrote. */
async function removeUnfinished(runFolder: string): Promise<void> {
  const folder = join(runFolder, 'checkpoints')
  await mkdir(folder, { recursive: true })
  for (const name of await readdir(folder)) {
    if (name.endsWith(unfinished)) await rm(join(folder, name), { recursive: true, force: true })
  }
}

function toTensors(arrays: NamedArrays, prefix = ''): Map<string, HostTensor> {
  return new Map([...arrays].map(([name, values]) => [prefix + name, float32(values, [values.length])]))
}

function withPrefix(arrays: NamedArrays, prefix: string): NamedArrays {
  return new Map(
    [...arrays]
      .filter(([name]) => name.startsWith(prefix))
      .map(([name, values]): [string, Float32Array] => [name.slice(prefix.length), values]),
  )
}

async function readArrays(path: string): Promise<NamedArrays> {
  await using file = await openSafetensors(path)
  const arrays = new Map<string, Float32Array>()
  for (const name of file.tensors.keys()) {
    const { data } = await file.read(name)
    if (!(data instanceof Float32Array)) {
      throw new ClaraError(`Tensor "${name}" of ${path} is not float32.`, { hint: 'Was the file changed?' })
    }
    arrays.set(name, data)
  }
  return arrays
}

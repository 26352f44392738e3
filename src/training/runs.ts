import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { ClaraError } from '../errors.ts'
import { isImpatient, readLastState, type TrainingState } from './checkpoint.ts'
import { type MetricsLine, readMetrics } from './metrics.ts'
import { readSessions, type TrainingSession } from './run-folder.ts'
import { isSettings } from './settings.ts'

/** What a run's folder tells of it. */
export interface RunSummary {
  readonly folder: string
  /** Why nothing more could be read: a damaged file. */
  readonly problem?: string
  readonly stage: string
  /** Updates that the last checkpoint holds, of how many. */
  readonly step: number
  readonly steps: number
  /** Whether there is nothing left to do: all steps are done, or early stopping ended the run. */
  readonly ended: boolean
  readonly samples: number
  /** Seconds of training, over all sessions. */
  readonly seconds: number
  readonly best?: TrainingState['best']
  /** Figures of the last evaluation. */
  readonly evaluation: Readonly<Record<string, number | null>>
  /** Mean training loss of the last steps. */
  readonly trainingLoss?: number
  readonly sessions: readonly TrainingSession[]
  /** Settings by their dotted names; lists of plain values as JSON. */
  readonly settings: Readonly<Record<string, string>>
}

/** A run with its curves. */
export interface RunRecord extends RunSummary {
  readonly metrics: readonly MetricsLine[]
}

/** How deep below a folder runs are looked for: a run, the stages of one, a folder of those. */
const DEPTH = 3
/** Steps that the training loss is averaged over. */
const LAST_STEPS = 50

/**
 * Reads the runs in some folders: each is a run, or holds runs, by name.
 * @throws ClaraError when a folder is missing or holds none.
 */
export async function findRuns(folders: readonly string[]): Promise<RunRecord[]> {
  const found: string[] = []
  for (const folder of folders) {
    const runs = await runFolders(folder, DEPTH)
    if (runs === undefined) {
      throw new ClaraError(`There is no folder ${folder}.`, {
        hint: 'Name the output folder of a run, or one above it.',
      })
    }
    if (runs.length === 0) {
      throw new ClaraError(`There is no run in ${folder}.`, { expected: 'a folder with metrics.jsonl or checkpoints/' })
    }
    found.push(...runs)
  }
  return await Promise.all([...new Set(found)].map((folder) => readRun(folder)))
}

/** Names of the settings in which runs differ, and their values in the order of the runs; where they lie counts for nothing. */
export function differences(runs: readonly RunSummary[]): { readonly name: string; readonly values: string[] }[] {
  const names = [...new Set(runs.flatMap(({ settings }) => Object.keys(settings)))].sort()
  return names
    .filter((name) => name !== 'output')
    .map((name) => ({ name, values: runs.map(({ settings }) => settings[name] ?? '') }))
    .filter(({ values }) => new Set(values).size > 1)
}

/** Undefined where there is no such folder. */
async function runFolders(folder: string, depth: number): Promise<string[] | undefined> {
  const names = await readdir(folder, { withFileTypes: true }).catch(() => undefined)
  if (names === undefined) return undefined
  if (names.some(({ name }) => name === 'metrics.jsonl' || name === 'checkpoints')) return [folder]
  if (depth === 0) return []
  const below = names.filter((entry) => entry.isDirectory() && entry.name !== 'node_modules').map(({ name }) => name)
  const runs = await Promise.all(below.sort().map((name) => runFolders(join(folder, name), depth - 1)))
  return runs.flatMap((list) => list ?? [])
}

const settingsSchema = z.looseObject({
  stage: z.string().catch(''),
  steps: z.number().catch(0),
})

/** @param again Whether a failure may mean that the run in progress has just put a newer checkpoint in the place of the last. */
async function readRun(folder: string, again = true): Promise<RunRecord> {
  const unknown = { stage: '', step: 0, steps: 0, ended: false, samples: 0, seconds: 0, evaluation: {} }
  const nothing: RunRecord = { folder, ...unknown, sessions: [], settings: {}, metrics: [] }
  try {
    const state = (await readLastState(folder))?.state
    const metrics = await readMetrics(folder)
    const { stage, steps } = settingsSchema.parse(state?.config ?? {})
    const losses = metrics.flatMap(({ kind, values }) => (kind === 'training' ? (values['loss'] ?? []) : []))
    const recent = losses.slice(-LAST_STEPS)
    return {
      ...nothing,
      stage,
      step: state?.step ?? 0,
      steps,
      ended: state !== undefined && (state.step >= steps || isImpatient(state)),
      samples: state?.samples ?? 0,
      seconds: state?.seconds ?? 0,
      ...(state?.best === undefined ? {} : { best: state.best }),
      evaluation: metrics.findLast(({ kind }) => kind === 'evaluation')?.values ?? {},
      ...(recent.length === 0 ? {} : { trainingLoss: recent.reduce((sum, value) => sum + value, 0) / recent.length }),
      sessions: await readSessions(folder),
      settings: flatten(state?.config),
      metrics,
    }
  } catch (error) {
    if (error instanceof ClaraError && again) return await readRun(folder, false)
    if (error instanceof ClaraError) return { ...nothing, problem: error.message }
    throw error
  }
}

function flatten(value: unknown, prefix = ''): Record<string, string> {
  const holds = isSettings(value) || (Array.isArray(value) && value.some(isSettings))
  if (!holds) return prefix === '' ? {} : { [prefix]: typeof value === 'string' ? value : JSON.stringify(value) }
  const entries = Object.entries(value).flatMap(([key, inner]) =>
    Object.entries(flatten(inner, prefix === '' ? key : `${prefix}.${key}`)),
  )
  return Object.fromEntries(entries)
}

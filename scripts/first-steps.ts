import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { ClaraError } from '../src/errors.ts'
import { differingSettings } from '../src/training/config.ts'
import { environmentSchema } from '../src/training/environment.ts'
import { readMetrics } from '../src/training/metrics.ts'
import { readRunConfig } from '../src/training/run-config.ts'
import { readDataFingerprints, readSessions } from '../src/training/run-folder.ts'
import { stageConfigSchema } from '../src/training/stages/config.ts'
import { runStage } from '../src/training/stages/run.ts'

/** The losses of a run's first updates, and all that decides them: what another machine can repeat. */
export const firstStepsSchema = z.object({
  /** Configuration file, from the repository's root. */
  recipe: z.string(),
  /** What it said, defaults filled in; without evaluations, which change nothing. */
  settings: z.json(),
  data: z.array(z.object({ file: z.string(), bytes: z.number(), sha256: z.string() })),
  environment: environmentSchema,
  losses: z.array(z.number()).min(1),
})
export type FirstSteps = z.output<typeof firstStepsSchema>

export interface FirstStepsOptions {
  readonly steps: number
  /** Default: what the recipe says, or all cores. */
  readonly threads?: number | undefined
  readonly onStep?: (step: number, loss: number) => void
}

/**
 * Runs the first updates of a recipe in a folder that is gone afterwards.
 * @throws ClaraError when the recipe has fewer steps.
 */
export async function runFirstSteps(recipe: string, options: FirstStepsOptions): Promise<FirstSteps> {
  const { steps, onStep } = options
  const read = await readRunConfig(recipe, stageConfigSchema)
  const threads = options.threads ?? read.threads
  if (steps > read.steps) {
    throw new ClaraError(`${recipe} has fewer steps than asked for.`, {
      expected: `at most ${read.steps}`,
      received: String(steps),
    })
  }
  const work = await mkdtemp(join(tmpdir(), 'clara-first-steps-'))
  try {
    const output = join(work, 'run')
    const config = {
      ...read,
      ...(threads === undefined ? {} : { threads }),
      output,
      memoryCache: join(work, 'memory'),
      evaluation: { ...read.evaluation, data: [] },
    }
    const stop = new AbortController()
    const progress = {
      step(report: { readonly step: number; readonly loss: number }) {
        onStep?.(report.step, report.loss)
        if (report.step === steps) stop.abort()
      },
    }
    await runStage({ config, signal: stop.signal, progress })
    const lines = (await readMetrics(output)).filter(({ kind }) => kind === 'training')
    const [session] = await readSessions(output)
    const { output: _, memoryCache: __, threads: ___, evaluation: ____, ...settings } = config
    return firstStepsSchema.parse({
      recipe,
      settings: JSON.parse(JSON.stringify(settings)),
      data: await readDataFingerprints(output),
      environment: session,
      losses: lines.map(({ values }) => values['loss']),
    })
  } finally {
    await rm(work, { recursive: true, force: true })
  }
}

/** How far losses may lie apart where the bits may differ. */
const TOLERANCE = 1e-3

/** What a repetition found: empty `problems` where it agrees with the record. */
export interface Agreement {
  /** Whether every bit had to agree: processor features, threads and runtime version are those of the record. */
  readonly exact: boolean
  readonly problems: readonly string[]
}

/** Compares what was repeated with what was recorded. */
export function compareFirstSteps(recorded: FirstSteps, repeated: FirstSteps): Agreement {
  const exact = sameArithmetic(recorded, repeated)
  const settings = differingSettings(recorded.settings, repeated.settings)
  if (settings.length > 0) return { exact, problems: [`${recorded.recipe} now says otherwise: ${settings.join(', ')}`] }
  const contents = new Map(repeated.data.map(({ file, sha256 }) => [file, sha256]))
  const changed = recorded.data.filter(({ file, sha256 }) => contents.get(file) !== sha256)
  if (changed.length > 0) return { exact, problems: changed.map(({ file }) => `${file} is not what it was`) }
  const problems = recorded.losses.flatMap((loss, index) => {
    const found = repeated.losses[index] ?? Number.NaN
    const agrees = exact ? Object.is(found, loss) : Math.abs(found - loss) <= TOLERANCE
    return agrees ? [] : [`step ${index + 1}: the loss was ${loss}, now ${found}`]
  })
  return { exact, problems }
}

function sameArithmetic({ environment: left }: FirstSteps, { environment: right }: FirstSteps): boolean {
  const deciding = ({ cpu, threads, runtime }: FirstSteps['environment']) =>
    JSON.stringify([cpu.features, threads, runtime])
  return deciding(left) === deciding(right)
}

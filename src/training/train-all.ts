import { join } from 'node:path'
import { z } from 'zod'
import { ClaraError } from '../errors.ts'
import { checkpointSteps, readLastState } from './checkpoint.ts'
import { checkConfig, differingSettings, stageNames, type TrainingConfig } from './config.ts'
import { composeConfig, type RunConfigOptions } from './run-config.ts'
import { assign, isSettings, overlay, type Settings } from './settings.ts'
import { checkSameConfig, type TrainingResult } from './trainer.ts'

type Stage = TrainingConfig['stage']

/** The settings of one stage of several, with what the order of stages needs of them. */
type StageSettings = Pick<TrainingConfig, 'stage' | 'output' | 'steps' | 'evaluation'>

/** What every stage must share with the one before, as it goes on from its parameters. */
const shared = ['base', 'tokenizer', 'embeddingSeed', 'lora.rank', 'lora.alpha', 'compressor', 'differentMemTokens']

/**
 * The configurations of a run over several stages, in their order. The file holds what they share, and under `stages` a
 * section for each that is to run, which is laid over it:
 *
 *     output: runs/small
 *     preset: small
 *     base: models/base.gguf
 *     stages:
 *       stage1: { steps: 800, data: [...] }
 *       stage1_2: { steps: 400, data: [...] }
 *
 * Each stage has a folder of its own in `output` and starts from the last parameters of the one before.
 * @throws ClaraError that names every wrong or unknown setting, or one in which stages that build on each other differ.
 */
export function composeStages<Schema extends z.ZodObject>(
  value: unknown,
  schema: Schema,
  source: string,
  options: RunConfigOptions = {},
): z.output<Schema>[] {
  const sections = z.object(Object.fromEntries(stageNames.map((stage) => [stage, schema])))
  const file = isSettings(value) ? value : {}
  const { stages, ...common } = assign(file, options.set ?? [], z.object({ ...schema.shape, stages: sections }))
  const named = isSettings(stages) ? stages : {}
  checkConfig(
    { stages: Object.keys(named), output: common['output'] },
    z.object({ stages: z.array(z.enum(stageNames)).min(1), output: z.string().min(1) }),
    source,
  )
  const composed: z.output<Schema>[] = []
  let before: string | undefined
  for (const stage of stageNames.filter((name) => Object.hasOwn(named, name))) {
    const output = join(String(common['output']), stage)
    const section = sectionOf(named[stage], stage, source)
    const start: Settings = before === undefined ? {} : { initialise: before }
    const settings = overlay(overlay(common, section), { stage, output, ...start })
    composed.push(composeConfig(settings, schema, `${source}, stage ${stage}`, { preset: options.preset }))
    before = output
  }
  checkShared(composed, source)
  return composed
}

function sectionOf(section: unknown, stage: Stage, source: string): Settings {
  const settings = section ?? {}
  const reserved = isSettings(settings) ? ['stage', 'output', 'initialise'].find((key) => key in settings) : ''
  if (isSettings(settings) && reserved === undefined) return settings
  throw new ClaraError(
    `The configuration ${source} is not valid: stages.${stage}${reserved === '' ? ' is no section of settings' : `.${reserved}: a stage's name, folder and beginning follow from the order of stages`}.`,
  )
}

function checkShared(configs: readonly unknown[], source: string): void {
  const [first] = configs
  const differing = configs.flatMap((config) => differingSettings(first, config))
  const wrong = shared.find((key) => differing.some((name) => name === key || name.startsWith(`${key}.`)))
  if (wrong === undefined) return
  throw new ClaraError(`The stages of ${source} differ in '${wrong}', but each goes on from the one before.`, {
    hint: 'Set it once, outside the stages.',
  })
}

/** How one stage of several ended; `skipped`: it had ended before. */
export interface StageOutcome {
  readonly stage: Stage
  readonly output: string
  readonly result: TrainingResult | 'skipped'
}

export interface TrainStagesOptions<Config extends StageSettings> {
  readonly configs: readonly Config[]
  /** Trains one stage. */
  readonly run: (config: Config, resume: boolean) => Promise<TrainingResult>
  /** Skip the stages that have ended, go on with the one that was under way. */
  readonly resume?: boolean
  /** Called before a stage, and for one that is skipped. */
  readonly announce?: (stage: Stage, state: 'starts' | 'resumes' | 'skipped') => void
}

/**
 * Trains stage after stage until one is interrupted or runs out of time.
 * @returns One entry for every stage that was looked at, the last of which may not have ended.
 * @throws ClaraError when a stage that has ended was run with other settings, or, without `resume`, a folder holds a run.
 */
export async function trainStages<Config extends StageSettings>({
  configs,
  run,
  resume = false,
  announce,
}: TrainStagesOptions<Config>): Promise<StageOutcome[]> {
  // all folders are looked at first: hours into the first stage is late to hear that the second cannot start
  if (!resume) for (const { output } of configs) await refuseOccupied(output)
  const results: StageOutcome[] = []
  for (const config of configs) {
    const { stage, output } = config
    const state = resume ? await readLastState(output) : undefined
    if (state) checkSameConfig(state.state.config, JSON.parse(JSON.stringify(config)), state.folder)
    const { patience } = config.evaluation
    const impatient = patience !== undefined && (state?.state.sinceBest ?? 0) >= patience
    if (state && (state.state.step >= config.steps || impatient)) {
      announce?.(stage, 'skipped')
      results.push({ stage, output, result: 'skipped' })
      continue
    }
    announce?.(stage, state ? 'resumes' : 'starts')
    const result = await run(config, state !== undefined)
    results.push({ stage, output, result })
    if (result.reason === 'aborted' || result.reason === 'out of time') break
  }
  return results
}

async function refuseOccupied(output: string): Promise<void> {
  if ((await checkpointSteps(output)).length === 0) return
  throw new ClaraError(`${output} already holds a run.`, {
    hint: 'Go on with it by --resume, or choose another output folder.',
  })
}

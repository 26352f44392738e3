import { z } from 'zod'
import { ClaraError } from '../errors.ts'
import type { TrainingResult } from '../training/trainer.ts'
import type { VerbContext } from './verb.ts'

export const summary = 'Train adapters from a configuration file'

export const options = z.strictObject({
  config: z.string().describe('Configuration of the run, a JSON or YAML file; or the word all, and the file behind it'),
  file: z
    .string()
    .optional()
    .describe('With all: configuration with a section for each stage, trained one after another'),
  set: z
    .array(z.string())
    .default([])
    .describe('A setting over that of the file, such as learningRate=1e-4, data.0.weight=2 or stages.stage2.steps=50'),
  preset: z
    .enum(['paper', 'small'])
    .optional()
    .describe('Settings below those of the file. Default: what the file says'),
  resume: z.boolean().default(false).describe('Go on from the last checkpoint in the output folder, bit for bit'),
  dryRun: z
    .boolean()
    .default(false)
    .describe('Print shapes, trainable parameters, operations, memory and time, and start nothing'),
})

export const positionals = ['config', 'file']

export async function run(values: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const [{ readRunConfig }, { readSettings }, { composeStages, trainStages }, { stageConfigSchema }] =
    await Promise.all([
      import('../training/run-config.ts'),
      import('../training/config.ts'),
      import('../training/train-all.ts'),
      import('../training/stages/config.ts'),
    ])
  const { set, preset, resume } = values
  if (values.config !== 'all') {
    if (values.file !== undefined) {
      throw new ClaraError(`clara train does not know what to do with ${JSON.stringify(values.file)}.`, {
        hint: 'A run of several stages is clara train all FILE.',
      })
    }
    const config = await readRunConfig(values.config, stageConfigSchema, { set, preset })
    if (values.dryRun) {
      const [plan] = await plans([config], context)
      context.report({ ...plan })
    } else {
      context.report(await (await trainer(context))(config, resume))
    }
    return
  }

  const { file } = values
  if (file === undefined) {
    throw new ClaraError('clara train all needs the configuration of its stages.', { expected: 'clara train all FILE' })
  }
  const configs = composeStages(await readSettings(file), stageConfigSchema, file, { set, preset })
  if (values.dryRun) {
    context.report({ stages: await plans(configs, context) })
    return
  }
  const says = { starts: 'begins', resumes: 'goes on', skipped: 'has ended before' } as const
  const stages = await trainStages({
    configs,
    resume,
    run: await trainer(context),
    announce: (stage, state) => context.note(`Stage ${stage} ${says[state]}.`),
  })
  context.report({ stages })
}

type StageConfig = import('../training/stages/config.ts').StageConfig

/** What trains one stage and shows how it goes. */
async function trainer(
  context: VerbContext,
): Promise<(config: StageConfig, resume: boolean) => Promise<TrainingResult>> {
  const [{ runStage }, { createProgress }] = await Promise.all([
    import('../training/stages/run.ts'),
    import('../training/progress.ts'),
  ])
  return (config, resume) => {
    const progress = createProgress({ output: process.stderr, quiet: context.json })
    return runStage({ config, resume, signal: context.signal, progress })
  }
}

/** Plans of some stages, printed as they come. */
async function plans(configs: readonly StageConfig[], context: VerbContext): Promise<object[]> {
  const [{ planStage }, { measurePeak }, { openRuntime }, { describePlan, timeOf }] = await Promise.all([
    import('../training/stages/plan.ts'),
    import('../training/peak.ts'),
    import('../runtime/runtime.ts'),
    import('./plan-text.ts'),
  ])
  const all: object[] = []
  let peak: { readonly threads: number; readonly flopsPerSecond: number } | undefined
  for (const config of configs) {
    context.status(`planning ${config.stage} …`)
    const plan = await planStage(config)
    if (peak === undefined) {
      await using runtime = await openRuntime(config.threads === undefined ? {} : { threads: config.threads })
      peak = { threads: runtime.threads, flopsPerSecond: await measurePeak(runtime) }
    }
    const time = timeOf(plan, config, peak.flopsPerSecond)
    for (const line of describePlan(plan, config, { ...peak, ...time })) context.print(line)
    all.push({ ...plan, ...peak, ...time })
  }
  return all
}

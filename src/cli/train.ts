import { z } from 'zod'
import type { VerbContext } from './verb.ts'

export const summary = 'Train adapters from a configuration file'

export const options = z.strictObject({
  config: z.string().describe('Configuration of the run, a JSON file'),
  resume: z.boolean().default(false).describe('Go on from the last checkpoint in the output folder, bit for bit'),
})

export const positionals = ['config']

export async function run(values: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const [{ readConfig }, { stageConfigSchema }, { runStage1 }, { createProgress }] = await Promise.all([
    import('../training/config.ts'),
    import('../training/stages/config.ts'),
    import('../training/stages/run.ts'),
    import('../training/progress.ts'),
  ])
  const config = await readConfig(values.config, stageConfigSchema)
  const progress = createProgress({ output: process.stderr, quiet: context.json })
  const result = await runStage1({ config, resume: values.resume, signal: context.signal, progress })
  context.report(result)
}

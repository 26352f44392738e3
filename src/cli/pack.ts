import { z } from 'zod'
import type { VerbContext } from './verb.ts'

export const summary = 'Turn a training run into a model folder'

export const options = z.strictObject({
  run: z.string().describe('Output folder of a training run'),
  model: z.string().describe('Folder to write the model to'),
  average: z.string().optional().describe('A model whose parameters are averaged with those of the checkpoint'),
  which: z.enum(['last', 'best']).default('last').describe('Which checkpoint of the run'),
})

export const positionals = ['run', 'model']

export async function run(values: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const { packRun } = await import('../training/stages/pack.ts')
  const { run: runFolder, model: modelFolder, which, average: averageWith } = values
  const packed = await packRun({ runFolder, modelFolder, which, averageWith })
  context.print(`Step ${packed.step} of ${values.run} is now the model ${values.model}.`)
  context.report({ model: values.model, ...packed })
}

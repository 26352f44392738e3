import { z } from 'zod'
import type { VerbContext } from './verb.ts'

export const summary = 'Convert a checkpoint from the published layout, or to it'

export const options = z.strictObject({
  input: z.string().describe('Folder of a published checkpoint; with --to published, of a model'),
  output: z.string().describe('Folder to write'),
  to: z
    .enum(['clara', 'published'])
    .default('clara')
    .describe('clara: a model folder, as clara pack writes it. published: for the published Python code'),
  base: z
    .string()
    .optional()
    .describe("Folder of the base model. Default: where the input's configuration says, or in the Hugging Face cache"),
  float: z
    .enum(['float32', 'bfloat16'])
    .default('float32')
    .describe('With --to published: how the adapters are stored; the tables keep every number'),
  baseName: z
    .string()
    .optional()
    .describe('With --to published: what decoder_model_name says. Default: the path of the base'),
})

export const positionals = ['input', 'output']

export async function run(values: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const { convertToModel, convertToPublished } = await import('../clara/convert.ts')
  const { to, ...rest } = values
  const convert = to === 'clara' ? convertToModel : convertToPublished
  const result = await convert({ ...rest, onProgress: context.status })
  context.print(
    to === 'clara'
      ? `${values.input} is now the model ${result.output}, on the base ${result.base}.`
      : `${values.input} is now in the published layout in ${result.output}. CLaRa.from_pretrained reads its base from ${result.base}.`,
  )
  context.report(result)
}

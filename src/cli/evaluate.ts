import { z } from 'zod'
import type { VerbContext } from './verb.ts'
import { weightFlags, weightOptions } from './weights.ts'

export const summary = 'Measure a model against its controls on a file of questions'

export const options = z.strictObject({
  file: z
    .string()
    .default('datasets/squad.dev.jsonl.gz')
    .describe('Passages with questions, or questions with candidates (JSON lines), to answer'),
  model: z.string().optional().describe('Folder of a model, or of a published checkpoint. Default: the embedded model'),
  base: z
    .string()
    .optional()
    .describe("Folder of the base model. Default: where the model's configuration says, or in the Hugging Face cache"),
  textReader: z
    .string()
    .optional()
    .describe('Folder of a model trained on full text, which reads it here. Default: the model itself'),
  emptyReader: z
    .string()
    .optional()
    .describe(
      'Folder of a model trained on an empty background, which answers without one here. Default: the model itself',
    ),
  questions: z.number().int().min(2).default(200).describe('How many questions of each file, at most'),
  rates: z
    .array(z.number().positive())
    .default([])
    .describe("Text positions per memory token. Default: the model's own"),
  losses: z.array(z.string()).default([]).describe('More files whose answer losses are taken'),
  answerLosses: z
    .boolean()
    .default(true)
    .describe('Take the losses of the answers, on the questions that are answered; they hold the base at fp32'),
  retrieval: z
    .array(z.string())
    .default([])
    .describe('Files of questions with candidates, ranked by query reasoner, compressor and BM25'),
  ...weightFlags,
  threads: z.number().int().positive().optional().describe('Threads. Default: all cores'),
})

export const positionals = ['file']

/** Seconds between two lines of progress where no status line shows. */
const QUIET = 20

export async function run(values: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const [{ embeddedModel }, { evaluateModel }, { reportTables }] = await Promise.all([
    import('../clara/model.ts'),
    import('../evaluation/report.ts'),
    import('../evaluation/table.ts'),
  ])
  const { answerLosses: withLosses, model = embeddedModel(), ...asked } = values
  let told = performance.now()
  const report = await evaluateModel({
    ...asked,
    ...weightOptions(values, context),
    model,
    withLosses,
    signal: context.signal,
    onFigure: (line) => context.note(line),
    onProgress(figure, done, all) {
      context.status(`${figure}: ${done}/${all}`)
      if (context.interactive || performance.now() - told < QUIET * 1000) return
      told = performance.now()
      context.note(`${figure}: ${done}/${all}`)
    },
  })
  for (const line of reportTables(report)) context.print(line)
  context.report(report)
}

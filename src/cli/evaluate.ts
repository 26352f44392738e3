import { z } from 'zod'
import type { VerbContext } from './verb.ts'

export const summary = 'Measure a model against its controls on a file of questions'

export const options = z.strictObject({
  file: z.string().default('datasets/squad.dev.jsonl.gz').describe('Passages with questions (JSON lines)'),
  model: z.string().optional().describe('Folder of a model, or of a published checkpoint. Default: the embedded model'),
  base: z
    .string()
    .optional()
    .describe("Folder of the base model. Default: where the model's configuration says, or in the Hugging Face cache"),
  questions: z.number().int().min(2).default(200).describe('How many questions, one a passage'),
  rates: z
    .array(z.number().positive())
    .default([])
    .describe("Text positions per memory token. Default: the model's own"),
  retrieval: z.array(z.string()).default([]).describe('Files of questions with candidates, for recall beside BM25'),
  lossPassages: z.number().int().min(0).default(48).describe('Passages for the answer losses; 0 leaves them out'),
  weights: z.enum(['int8', 'fp32']).default('int8').describe('How weights are held while answering'),
  threads: z.number().int().positive().optional().describe('Threads. Default: all cores'),
})

export const positionals = ['file']

export async function run(values: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const [{ Clara }, { embeddedModel }, { openModel }, reader, { answerLosses }, { evaluateRetrieval }] =
    await Promise.all([
      import('../clara/clara.ts'),
      import('../clara/model.ts'),
      import('../clara/open.ts'),
      import('../evaluation/reader.ts'),
      import('../evaluation/losses.ts'),
      import('../evaluation/retrieval.ts'),
    ])
  const { threads, weights, lossPassages } = values
  const model = await openModel(values.model ?? embeddedModel(), { base: values.base })
  const rates = values.rates.length > 0 ? values.rates : [model.config.compr_rate]
  const result: Record<string, unknown> = {
    file: values.file,
    fingerprint: model.fingerprint,
    stage: model.stage,
    weights,
  }
  {
    await using clara = await Clara.open(model, { weights, ...(threads === undefined ? {} : { threads }) })
    const questions = await reader.readerQuestions(values.file, values.questions, clara)
    const percent = (value: number) => (100 * value).toFixed(1).padStart(5)
    context.print(`${questions.length} questions of ${values.file}, greedy answers, ${weights} weights`)
    context.print('reads                 F1     EM  cover')
    const scores: Record<string, unknown> = {}
    for (const mode of reader.readerModes) {
      for (const rate of mode === 'memory' ? rates : rates.slice(0, 1)) {
        const name = mode === 'memory' || mode === 'wrongMemory' ? `${mode}@${rate}x` : mode
        const { answers: _, ...figures } = await reader.evaluateReader(clara, questions, mode, {
          rate,
          signal: context.signal,
          progress: (done, all) => context.status(`${name}: ${done}/${all}`),
        })
        scores[name] = figures
        const { f1, exactMatch, coverExactMatch } = figures
        context.print(`${name.padEnd(18)} ${percent(f1)}  ${percent(exactMatch)}  ${percent(coverExactMatch)}`)
      }
    }
    result['answers'] = scores
    const retrieval: Record<string, unknown> = {}
    for (const file of values.retrieval) {
      const figures = await evaluateRetrieval(clara, file, values.questions, (done, all) =>
        context.status(`${file}: ${done}/${all}`),
      )
      retrieval[file] = figures
      const { latent, bm25 } = figures
      context.print(
        `${file}: ${latent.questions} questions, recall@5 ${latent.recallAt5.toFixed(3)} (BM25 ${bm25.recallAt5.toFixed(3)}), recall@1 ${latent.recallAt1.toFixed(3)} (BM25 ${bm25.recallAt1.toFixed(3)})`,
      )
    }
    if (values.retrieval.length > 0) result['retrieval'] = retrieval
  }
  if (lossPassages > 0) {
    const losses: Record<string, unknown> = {}
    for (const rate of rates) {
      const loss = await answerLosses(model, { file: values.file, passages: lossPassages, rate, threads })
      losses[`${rate}x`] = loss
      const show = (value: number) => value.toFixed(3)
      context.print(
        `answer loss at ${rate}x, nats: memory ${show(loss.memory)}, wrong memory ${show(loss.wrongMemory)}, no memory ${show(loss.noMemory)}, full text ${show(loss.fullText)}`,
      )
    }
    result['losses'] = losses
  }
  context.report(result)
}

import { z } from 'zod'
import { printable, wrap } from './terminal.ts'
import type { VerbContext } from './verb.ts'
import { weightFlags, weightOptions } from './weights.ts'

export const summary = 'Answer a question from text files'

export const options = z.strictObject({
  question: z.string().describe('The question'),
  files: z.array(z.string()).min(1).describe('Text files (UTF-8) to read'),
  topK: z
    .number()
    .int()
    .min(1)
    .optional()
    .describe("Passages that the answer is written from. Default: the model's own number"),
  maxNewTokens: z
    .number()
    .int()
    .min(1)
    .optional()
    .describe("Longest answer, in tokens. Default: the model's own limit"),
  model: z
    .string()
    .optional()
    .describe('Folder of a model, or of a published checkpoint. Default: the model that comes with clara'),
  base: z
    .string()
    .optional()
    .describe("Folder of the base model. Default: where the model's configuration says, or in the Hugging Face cache"),
  ...weightFlags,
})

export const positionals = ['question', 'files']

export async function run(values: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const [{ Clara }, { KnowledgeBase }, { readDocuments }] = await Promise.all([
    import('../clara/clara.ts'),
    import('../knowledge/knowledge-base.ts'),
    import('../knowledge/files.ts'),
  ])
  const { question, topK, maxNewTokens } = values
  const { signal, style } = context
  const documents = await readDocuments(values.files)
  context.status('loading the model')
  await using clara = await Clara.load(values.model, { base: values.base, ...weightOptions(values, context) })
  await using knowledge = await KnowledgeBase.open({ clara })
  await knowledge.add(documents, {
    signal,
    onProgress: ({ done, total }) => context.status(`compressing: passage ${done} of ${total}`),
  })
  context.status('reading the question')
  const pieces = knowledge.askStream(question, {
    signal,
    ...(topK === undefined ? {} : { topK }),
    ...(maxNewTokens === undefined ? {} : { maxNewTokens }),
  })
  let next = await pieces.next()
  for (; next.done !== true; next = await pieces.next()) context.write(printable(next.value))
  const { answer, sources, usage } = next.value
  context.print('\n')
  for (const { id, score, text } of sources) {
    context.print(`${style.paint('cyan', printable(id))} ${style.paint('dim', score.toFixed(3))}`)
    for (const line of wrap(printable(text), style.width - 2)) context.print(`  ${line}`)
  }
  const { promptTokens } = usage
  context.print(style.paint('dim', `\n${promptTokens.memory} positions in the prompt; as text ${promptTokens.text}`))
  context.report({ question, answer, sources, usage })
}

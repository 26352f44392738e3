import { z } from 'zod'
import {
  answerFlags,
  answerOptions,
  answerReport,
  filterFlags,
  loadModel,
  modelFlags,
  printAnswer,
  requireStore,
  searchFlags,
  searchOptions,
  storeFlags,
  withKnowledge,
} from './knowledge.ts'
import type { VerbContext } from './verb.ts'

export const summary = 'Answer a question from the knowledge base, or from files'

export const options = z.strictObject({
  question: z.string().describe('The question'),
  files: z
    .array(z.string())
    .default([])
    .describe('Files and folders to answer from, instead of the knowledge base; nothing of them is kept'),
  ...storeFlags,
  ...searchFlags,
  ...answerFlags,
  ...filterFlags,
  ...modelFlags,
})

export const positionals = ['question', 'files']

export async function run(values: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const { question, store, files } = values
  const asked = { ...searchOptions(values, context), ...answerOptions(values) }
  const answer =
    files.length > 0
      ? await askFiles(values, asked, context)
      : await requireStore(store).then(() =>
          withKnowledge(values, context, (knowledge) => {
            context.status('reading the question')
            return printAnswer(knowledge.askStream(question, asked), context)
          }),
        )
  if (answer.sources.length === 0) context.end('nothing')
  context.report(answerReport(answer))
}

async function askFiles(
  { question, files, ...values }: z.infer<typeof options>,
  asked: ReturnType<typeof searchOptions>,
  context: VerbContext,
) {
  const [{ KnowledgeBase }, { readDocuments }] = await Promise.all([
    import('../knowledge/knowledge-base.ts'),
    import('../knowledge/files.ts'),
  ])
  const { signal } = context
  const documents = await readDocuments(files, { signal })
  await using clara = await loadModel(values, context)
  await using knowledge = await KnowledgeBase.open({ clara })
  await knowledge.add(documents, {
    signal,
    onProgress: ({ done, total }) => context.status(`compressing: passage ${done} of ${total}`),
  })
  context.status('reading the question')
  return await printAnswer(knowledge.askStream(question, asked), context)
}

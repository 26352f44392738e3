import { z } from 'zod'
import type { ChatTurn } from '../knowledge/conversation.ts'
import {
  answerFlags,
  answerOptions,
  answerReport,
  filterFlags,
  modelFlags,
  printAnswer,
  requireStore,
  searchFlags,
  searchOptions,
  storeFlags,
  withKnowledge,
} from './knowledge.ts'
import type { VerbContext } from './verb.ts'

export const summary = 'Ask one question after the other, each with those before in mind'

export const options = z.strictObject({
  ...storeFlags,
  history: z
    .enum(['pass', 'condense'])
    .default('pass')
    .describe(
      'pass: the latest turns stand before the question, as many as fit; condense: the model rewrites the question, which needs a larger one',
    ),
  ...searchFlags,
  ...answerFlags,
  ...filterFlags,
  ...modelFlags,
})

export const positionals = []

/** Reads questions from standard input, a line each, to its end, an empty line or Ctrl-C. */
export async function run(values: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const { createInterface } = await import('node:readline/promises')
  const { signal, interactive } = context
  const asked = { ...searchOptions(values, context), ...answerOptions(values), history: values.history }
  await requireStore(values.store)
  const turns: ChatTurn[] = []
  const answers: ReturnType<typeof answerReport>[] = []
  await withKnowledge(values, context, async (knowledge) => {
    const lines = createInterface({ input: process.stdin, signal })
    const prompt = () => {
      if (interactive && process.stdin.isTTY) context.write('> ')
    }
    try {
      if (interactive) context.note('An empty line ends the conversation.')
      prompt()
      for await (const line of lines) {
        if (line.trim() === '' || signal.aborted) break
        turns.push({ role: 'user', content: line.trim() })
        const answer = await printAnswer(knowledge.chatStream(turns, asked), context)
        turns.push({ role: 'assistant', content: answer.answer })
        answers.push({ ...answerReport(answer), question: line.trim() })
        prompt()
      }
    } finally {
      lines.close()
    }
  })
  context.report({ store: values.store, answers })
}

import { ClaraError } from '../errors.ts'
import type { KnowledgeModel } from './model.ts'

/** A turn of a conversation. */
export interface ChatTurn {
  readonly role: 'user' | 'assistant'
  readonly content: string
}

/**
 * What becomes of a conversation's earlier turns. `pass`: as many of the latest as fit stand before the question, in their own words. `condense`: the model
 * itself rewrites the last question so that it can be understood alone, from the conversation's full text; a small model does that badly.
 */
export const histories = ['pass', 'condense'] as const
export type History = (typeof histories)[number]

const CONDENSE =
  'Rewrite the last question of this conversation so that it can be understood without the rest. Write the question and nothing else.'
/** A rewritten question that is longer is none. */
const LONGEST_CONDENSED = 64

/**
 * The question that a conversation ends with, as it is searched with and answered.
 * @throws ClaraError when the last turn is not the user's, or a turn is malformed.
 */
export async function questionOf(
  turns: readonly ChatTurn[],
  clara: KnowledgeModel,
  history: History,
  signal?: AbortSignal,
): Promise<string> {
  for (const { role, content } of turns) {
    if ((role !== 'user' && role !== 'assistant') || typeof content !== 'string')
      throw new ClaraError('A turn of the conversation is malformed.', {
        expected: "{ role: 'user' or 'assistant', content: a string }",
      })
  }
  const last = turns.at(-1)
  if (last?.role !== 'user') {
    throw new ClaraError('The conversation does not end with a question.', { expected: "a last turn of role 'user'" })
  }
  const question = last.content.trim()
  if (question === '' || turns.length === 1) return question
  if (history === 'pass') return passed(turns, clara)
  let condensed = ''
  const transcript = turns.map(({ role, content }) => `${role === 'user' ? 'Question' : 'Answer'}: ${content.trim()}`)
  const options = { maxNewTokens: LONGEST_CONDENSED, ...(signal ? { signal } : {}) }
  for await (const piece of clara.streamFullTextAnswer(CONDENSE, transcript, options)) condensed += piece
  return condensed.trim() || question
}

/** The last question, and before it as many of the latest turns as the query reasoner reads beside it. */
function passed(turns: readonly ChatTurn[], { model }: KnowledgeModel): string {
  let text = turns.at(-1)?.content.trim() ?? ''
  for (const { content } of turns.slice(0, -1).reverse()) {
    const longer = `${content.trim()}\n${text}`
    if (model.tokenizer.encode(longer).length > model.config.doc_max_length) break
    text = longer
  }
  return text
}

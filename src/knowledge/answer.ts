import type { AnswerDocument } from '../clara/clara.ts'
import { expandCount } from './expand.ts'
import type { KnowledgeModel } from './model.ts'
import type { Answer, AskOptions } from './options.ts'
import type { Found } from './search.ts'

const NOTHING_FOUND = 'Nothing relevant was found.'

/**
 * Streams the answer from the passages that a search found, the best first; the return value is the whole.
 * @param started When the question came, in milliseconds of `performance.now()`.
 */
export async function* answerFrom(
  clara: KnowledgeModel,
  question: string,
  found: readonly Found[],
  started: number,
  { expand = 0, nothingFound = NOTHING_FOUND, maxNewTokens, sampling, signal }: AskOptions,
): AsyncGenerator<string, Answer, undefined> {
  const since = () => performance.now() - started
  const retrieve = since()
  if (found.length === 0) {
    yield nothingFound
    const ms = { retrieve, firstToken: since(), total: since() }
    const usage = { promptTokens: { memory: 0, text: 0 }, expanded: 0, ms }
    return { answer: nothingFound, question, sources: [], usage }
  }
  const sources = found.map(({ source }) => source)
  const expanded = expandCount(
    expand,
    sources.map(({ score }) => score),
  )
  const memories = found.map(({ source, memory }, index): AnswerDocument => (index < expanded ? source : memory))
  let answer = ''
  let firstToken: number | undefined
  for await (const piece of clara.streamAnswer(question, memories, {
    ...(maxNewTokens === undefined ? {} : { maxNewTokens }),
    ...(sampling ? { sampling } : {}),
    ...(signal ? { signal } : {}),
  })) {
    firstToken ??= since()
    answer += piece
    yield piece
  }
  const total = since()
  const promptTokens = {
    memory: clara.promptTokens(question, { memories }),
    text: clara.promptTokens(question, { documents: sources.map(({ text }) => text) }),
  }
  const ms = { retrieve, firstToken: firstToken ?? total, total }
  return { answer: answer.trim(), question, sources, usage: { promptTokens, expanded, ms } }
}

/** What a stream returns at its end. */
export async function lastOf(pieces: AsyncGenerator<string, Answer, undefined>): Promise<Answer> {
  let next = await pieces.next()
  while (next.done !== true) next = await pieces.next()
  return next.value
}

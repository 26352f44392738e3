import type { Clara } from '../clara/clara.ts'
import type { ClaraModel } from '../clara/model.ts'
import { loadTrainingData, type TrainingPassage } from '../data/training-data.ts'
import { ClaraError } from '../errors.ts'
import { type AnswerScores, scoreAnswer } from './metrics.ts'

/** A question with what answers it. */
export interface ReaderQuestion {
  readonly question: string
  /** Accepted answers. */
  readonly answers: readonly string[]
  /** The answer whose tokens a loss is taken over: one that stands in the documents, where there is such. */
  readonly answer: string
  /** The documents that answer it, each cut to what the compressor reads. */
  readonly documents: readonly string[]
}

/** What decides how much of a document is read, and how many of them. */
type Reading = Pick<ClaraModel, 'tokenizer'> & {
  readonly config: Pick<ClaraModel['config'], 'doc_max_length' | 'generation_top_k'>
}

/**
 * Questions of a file, spread evenly over it. Of a passage the first one whose answer stands within the part that the
 * compressor reads; of questions with candidates those whose answer was not cut away, with their supporting candidates.
 * @throws ClaraError where fewer than two are left.
 */
export async function readerQuestions(file: string, count: number, model: Reading): Promise<ReaderQuestion[]> {
  const { tokenizer, config } = model
  const cut = (text: string) => {
    const ids = tokenizer.encode(text)
    return ids.length <= config.doc_max_length ? text : tokenizer.decode(ids.slice(0, config.doc_max_length))
  }
  const { passages, pools } = await loadTrainingData(file)
  const questions = [
    ...passages.flatMap((passage) => ofPassage(passage, cut(passage.text))),
    ...pools.flatMap(({ question, answers, candidates }) => {
      const supporting = candidates.filter((candidate) => candidate.supporting).slice(0, config.generation_top_k)
      const texts = supporting.map(({ title, text }) => (title === '' ? text : `${title}: ${text}`))
      return ofPool(question, answers, texts, texts.map(cut))
    }),
  ]
  if (questions.length < 2) {
    throw new ClaraError(`${file} has fewer than two usable questions.`, {
      hint: 'The wrong-memory control needs another passage.',
    })
  }
  const every = Math.max(1, questions.length / count)
  return Array.from(
    { length: Math.min(count, questions.length) },
    (_, index) => questions[Math.floor(index * every)] as ReaderQuestion,
  )
}

/** At most one question, so that none is asked of a document that another has asked. */
function ofPassage({ qa, free = false, text }: TrainingPassage, read: string): ReaderQuestion[] {
  for (const { question, answers } of qa) {
    const answer =
      answers.find((candidate) => read.includes(candidate)) ?? (free && read === text ? answers[0] : undefined)
    if (answer !== undefined) return [{ question: question.trim(), answers, answer, documents: [read] }]
  }
  return []
}

function ofPool(
  question: string,
  answers: readonly string[],
  texts: readonly string[],
  read: readonly string[],
): ReaderQuestion[] {
  const standsIn = (documents: readonly string[]) =>
    answers.find((answer) => documents.some((document) => document.includes(answer)))
  const found = standsIn(read)
  // an answer such as "yes" stands nowhere, and nothing of it can be cut away
  if (texts.length === 0 || (found === undefined && standsIn(texts) !== undefined)) return []
  return [{ question: question.trim(), answers, answer: found ?? answers[0] ?? '', documents: read }]
}

/** For each of so many questions the one whose documents it is shown for wrong ones: the next. */
export const otherQuestion = <Question>(questions: readonly Question[], index: number): Question =>
  questions[(index + 1) % questions.length] as Question

/**
 * What the generator reads: the documents' memory; that of another question's documents; nothing; or the documents
 * themselves. A figure for the first says nothing without the other three.
 */
export type ReaderMode = 'memory' | 'wrongMemory' | 'noMemory' | 'fullText'

export interface ReaderScores {
  /** Means over the questions, between 0 and 1. */
  readonly exactMatch: number
  readonly f1: number
  readonly coverExactMatch: number
  readonly questions: number
}

export interface ReaderOptions {
  /** Text positions per memory token. Default: the model's own. */
  readonly rate?: number
  readonly maxNewTokens?: number
  readonly signal?: AbortSignal | undefined
  readonly progress?: (done: number, all: number) => void
}

/** Questions answered together. */
const BATCH = 8

/** Greedy answers in one mode, scored as SQuAD does, the best over the accepted answers. */
export async function evaluateReader(
  clara: Clara,
  questions: readonly ReaderQuestion[],
  mode: ReaderMode,
  options: ReaderOptions = {},
): Promise<ReaderScores & { readonly answers: readonly string[] }> {
  const { rate, signal, progress } = options
  const answerOptions = { maxNewTokens: options.maxNewTokens ?? 32, ...(signal ? { signal } : {}) }
  const answers: string[] = []
  const scores: AnswerScores[] = []
  for (let start = 0; start < questions.length; start += BATCH) {
    const group = questions.slice(start, start + BATCH)
    const asked = group.map(({ question }) => question)
    const documents = group.map((own, index) =>
      mode === 'noMemory' ? [] : (mode === 'wrongMemory' ? otherQuestion(questions, start + index) : own).documents,
    )
    if (mode === 'fullText') answers.push(...(await clara.generateFromFullText(asked, documents, answerOptions)))
    else {
      const flat = documents.flat()
      const memories = flat.length === 0 ? [] : await clara.compressDocuments(flat, rate === undefined ? {} : { rate })
      const perQuestion = documents.map((own) => memories.splice(0, own.length))
      answers.push(...(await clara.generateFromCompressedDocumentsAndQuestions(asked, perQuestion, answerOptions)))
    }
    group.forEach((question, index) => {
      scores.push(scoreAnswer(answers[start + index] ?? '', question.answers))
    })
    progress?.(answers.length, questions.length)
  }
  const mean = (name: keyof AnswerScores) => scores.reduce((sum, score) => sum + score[name], 0) / scores.length
  return {
    exactMatch: mean('exactMatch'),
    f1: mean('f1'),
    coverExactMatch: mean('coverExactMatch'),
    questions: questions.length,
    answers,
  }
}

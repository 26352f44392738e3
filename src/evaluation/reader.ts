import type { Clara } from '../clara/clara.ts'
import { loadJsonLines } from '../data/jsonl.ts'
import { passageSchema } from '../data/schemas.ts'
import { ClaraError } from '../errors.ts'
import { type AnswerScores, scoreAnswer } from './metrics.ts'

/** A question with the passage that answers it. */
export interface ReaderQuestion {
  readonly question: string
  readonly answers: readonly string[]
  /** The passage, cut to what the compressor reads. */
  readonly text: string
}

/**
 * One question for each passage of a file, spread evenly over it: the first whose answer stands within the part of the
 * passage that the compressor reads.
 */
export async function readerQuestions(file: string, count: number, clara: Clara): Promise<ReaderQuestion[]> {
  const { tokenizer, config } = clara.model
  const passages = await loadJsonLines(file, passageSchema)
  const questions = passages.flatMap(({ text, qa }): ReaderQuestion[] => {
    const ids = tokenizer.encode(text)
    const cut = ids.length <= config.doc_max_length ? text : tokenizer.decode(ids.slice(0, config.doc_max_length))
    const found = qa.find(({ answers }) => answers.some((answer) => cut.includes(answer)))
    return found ? [{ question: found.question, answers: found.answers, text: cut }] : []
  })
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

/**
 * What the generator reads: the passage's memory; another passage's memory; nothing; or the passage itself. A figure for
 * the first says nothing without the other three.
 */
export const readerModes = ['memory', 'wrongMemory', 'noMemory', 'fullText'] as const
export type ReaderMode = (typeof readerModes)[number]

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
  readonly signal?: AbortSignal
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
    // another passage of the same file: the one after it
    const texts = group.map(
      (own, index) => (mode === 'wrongMemory' ? questions[(start + index + 1) % questions.length] : own)?.text ?? '',
    )
    if (mode === 'fullText')
      answers.push(
        ...(await clara.generateFromFullText(
          asked,
          texts.map((text) => [text]),
          answerOptions,
        )),
      )
    else {
      const none = mode === 'noMemory'
      const memories = none ? [] : await clara.compressDocuments(texts, rate === undefined ? {} : { rate })
      const perQuestion = group.map((_, index) => memories.slice(index, index + 1))
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

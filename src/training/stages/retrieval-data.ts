import type { EncodedDocument } from '../../clara/batch.ts'
import { createRandom, deriveSeed } from '../../data/random.ts'
import { readRecords, type TrainingRecord } from '../../data/records.ts'
import { ClaraError } from '../../errors.ts'
import type { DataFile } from '../config.ts'
import { keywordQuestion } from './keywords.ts'
import { chunkPassage, encodeText, type SampleOptions, stretches, titled } from './samples.ts'

/** Every distinct candidate of a run's files, by number. */
export interface Corpus {
  readonly texts: readonly string[]
  /** The number of a text, which is taken in if it is new. */
  add(text: string): number
  /** A text as the compressor reads it. */
  document(index: number): EncodedDocument
}

/** @param options Of any rate: what the compressor reads does not depend on it. */
export function createCorpus(options: SampleOptions): Corpus {
  const texts: string[] = []
  const numbers = new Map<string, number>()
  const encoded = new Map<number, EncodedDocument>()
  return {
    texts,
    add(text) {
      const known = numbers.get(text)
      if (known !== undefined) return known
      numbers.set(text, texts.length)
      return texts.push(text) - 1
    },
    document(index) {
      const known = encoded.get(index)
      if (known) return known
      const document = encodeText(texts[index] ?? '', options)
      encoded.set(index, document)
      return document
    },
  }
}

/** A question with its candidates, by their numbers in the corpus. */
export interface RetrievalQuestion {
  readonly question: string
  readonly answers: readonly string[]
  readonly supporting: readonly number[]
  /** The other candidates of the dataset. */
  readonly others: readonly number[]
}

/** How a file of questions is read. */
export interface ReadQuestionsOptions {
  readonly corpus: Corpus
  /** Of any rate. */
  readonly samples: SampleOptions
  /** Least size of a pool. Default: 1. */
  readonly least?: number
  /** Whether some candidates must be known to support the answer. */
  readonly labelled: boolean
}

/**
 * Reads the questions of a file with their candidates. A passage with questions gives one for each, whose candidate is the
 * stretch of the passage that answers it.
 * @throws ClaraError when a line is no such record, a pool is too small, or no candidate is marked as supporting.
 */
export async function readQuestions(
  { file, task, without }: Pick<DataFile, 'file' | 'task' | 'without'>,
  { corpus, samples, least = 1, labelled }: ReadQuestionsOptions,
): Promise<RetrievalQuestion[]> {
  if (task !== 'answer' && !(task === 'keywords' && labelled)) {
    throw new ClaraError(`The task '${task}' has no place in ${labelled ? 'retrieval pretraining' : 'stage 2'}.`, {
      expected: `task 'answer', over questions with candidates or passages with qa${labelled ? ", or task 'keywords'" : ''}`,
      received: file,
    })
  }
  if (task === 'keywords') return keywordQuestions(file, without ?? [], corpus, samples)
  const questions: RetrievalQuestion[] = []
  for await (const record of readRecords(file)) {
    const found = questionsOf(record, corpus, samples)
    for (const { question, supporting, others } of found) {
      const size = supporting.length + others.length
      if (size >= least) continue
      throw new ClaraError(`The pool of the question ${JSON.stringify(question)} in ${file} is smaller than topK.`, {
        expected: `at least ${least} different candidates (retrieval.topK)`,
        received: String(size),
        hint: "Lower retrieval.topK, or fill the pools: retrieval.negatives 'random' or 'mined', or retrieval.inBatch.",
      })
    }
    questions.push(...found)
  }
  if (questions.length === 0) {
    throw new ClaraError(`${file} holds nothing for a stage that retrieves.`, {
      expected: 'questions with candidates, or passages with qa, whose answers occur in their text',
    })
  }
  if (labelled && !questions.some(({ supporting }) => supporting.length > 0)) {
    throw new ClaraError(`No question of ${file} has a supporting candidate.`, {
      expected: 'candidates of which some are marked as supporting, or pos_index',
      received: `${questions.length} questions`,
    })
  }
  return questions
}

function questionsOf(record: TrainingRecord, corpus: Corpus, samples: SampleOptions): RetrievalQuestion[] {
  const { kind, documents, positives, questions } = record
  if (kind === 'paraphrase') return []
  const [first] = documents
  if (kind === 'passage' && first && documents.length === 1) {
    const qa = questions.map(({ question, answers }) => ({ question, answers: [...answers] }))
    return chunkPassage({ text: first.text, qa, free: positives === undefined }, samples).flatMap((chunk) => {
      const number = corpus.add(chunk.text)
      return chunk.qa.map(({ question, answer }) => ({
        question,
        answers: [answer],
        supporting: [number],
        others: [],
      }))
    })
  }
  const numbers = documents.map((document) => corpus.add(titled(document)))
  const supporting = new Set(positives?.flatMap((place) => numbers[place] ?? []))
  const others = [...new Set(numbers)].filter((number) => !supporting.has(number))
  return questions.map(({ question, answers }) => ({
    question: question.trim(),
    answers,
    supporting: [...supporting],
    others,
  }))
}

/** Questions that each text is asked for with. */
const KEYWORD_QUESTIONS = 3

/** Every text of a file asked for with words of its own; the candidates beside it are near misses. */
async function keywordQuestions(
  file: string,
  without: readonly string[],
  corpus: Corpus,
  samples: SampleOptions,
): Promise<RetrievalQuestion[]> {
  const left = new Set((await Promise.all(without.map((path) => textsOfFile(path, samples)))).flat(2))
  const asked = new Set<number>()
  const questions: RetrievalQuestion[] = []
  for (const texts of await textsOfFile(file, samples)) {
    const numbers = texts.filter((text) => !left.has(text)).map(corpus.add)
    for (const number of numbers) {
      // once, whatever records it is in
      if (asked.has(number)) continue
      asked.add(number)
      const others = numbers.filter((other) => other !== number)
      const { ids, text } = corpus.document(number)
      const read = samples.tokenizer.decode(ids.slice(...text))
      for (let draw = 0; draw < KEYWORD_QUESTIONS; draw++) {
        const question = keywordQuestion(read, createRandom(deriveSeed(number, draw)))
        if (question !== undefined) questions.push({ question, answers: [], supporting: [number], others })
      }
    }
  }
  if (questions.length === 0)
    throw new ClaraError(`${file} holds no text to ask for.`, { expected: 'texts of a few words at least' })
  return questions
}

/** What of each record the compressor reads: a passage's stretches, one by one, and a question's candidates together. */
async function textsOfFile(path: string, samples: SampleOptions): Promise<string[][]> {
  const texts: string[][] = []
  for await (const { kind, documents } of readRecords(path)) {
    if (kind === 'question') texts.push([...new Set(documents.map(titled))])
    else for (const { text } of documents) texts.push(...stretches(text, samples).map((one) => [one]))
  }
  return texts
}

/** Answers so short ("no", "12") stand in too many texts to tell which of them answers. */
const TELLING_ANSWER = 4

/** Whether a text that the dataset does not call supporting may yet answer the question. */
export function mayAnswer({ answers, supporting }: RetrievalQuestion, number: number, { texts }: Corpus): boolean {
  const text = texts[number]?.toLowerCase() ?? ''
  return (
    supporting.includes(number) ||
    answers.some((answer) => answer.length >= TELLING_ANSWER && text.includes(answer.toLowerCase()))
  )
}

/** How a question's pool is made. */
export interface PoolOptions {
  readonly size: number
  /** Random texts are added up to this size. */
  readonly fill: number
  /** Negatives in the place of the question's other candidates. */
  readonly hard?: readonly number[] | undefined
  readonly seed: number
}

/** The pool of a question, in random order: its supporting candidates, negatives, and random texts of the corpus. */
export function poolOf(question: RetrievalQuestion, corpus: Corpus, { size, fill, hard, seed }: PoolOptions): number[] {
  const random = createRandom(seed)
  const negatives = hard ?? random.shuffle([...question.others])
  const pool = new Set([...random.shuffle([...question.supporting]), ...negatives].slice(0, size))
  // a corpus of near misses must not keep it busy for ever
  for (let drawn = 0; pool.size < fill && drawn < 20 * fill; drawn++) {
    const number = random.int(corpus.texts.length)
    if (!mayAnswer(question, number, corpus)) pool.add(number)
  }
  return random.shuffle([...pool])
}

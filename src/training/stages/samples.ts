import { type EncodedDocument, type GeneratorRow, packPrompts } from '../../clara/batch.ts'
import { compressorDocument } from '../../clara/document.ts'
import {
  answerPrompt,
  documentSlot,
  paraphrasePrompt,
  paraphraseVariants,
  qaPairsPrompt,
  questionAnswerLines,
  repeatPrompt,
  trainingPrompt,
} from '../../clara/prompts.ts'
import type { Random } from '../../data/random.ts'
import type { Paraphrase, Passage, PoolQuestion } from '../../data/schemas.ts'
import type { Tokenizer } from '../../tokenizer/types.ts'

/** How texts become samples. */
export interface SampleOptions {
  readonly tokenizer: Tokenizer
  /** Longest document, in text tokens. */
  readonly docMaxLength: number
  /** Memory tokens that a document of so many text tokens gets. */
  readonly memoryCount: (textTokens: number) => number
  readonly differentMemTokens: boolean
  /** Whether memory tokens are part of the compressor's input (memory 'tokens'). */
  readonly memoryInInput: boolean
  /** Prompts with their answers are cut to this many tokens. */
  readonly maxLength: number
  /** Questions that share one row at most. */
  readonly questionsPerRow: number
}

export interface QuestionAnswer {
  readonly question: string
  readonly answer: string
}

/** A stretch of a passage that fits the compressor, with the questions that it answers. */
export interface Chunk {
  readonly text: string
  readonly document: EncodedDocument
  readonly qa: readonly QuestionAnswer[]
}

/** A document as the compressor reads it. */
export function encodeText(text: string, options: SampleOptions): EncodedDocument {
  const { tokenizer, docMaxLength, memoryInInput, differentMemTokens } = options
  const memory = memoryInInput ? { count: options.memoryCount(docMaxLength), differentMemTokens } : undefined
  return compressorDocument(tokenizer, text, docMaxLength, memory)
}

const textTokens = ({ text: [start, end] }: EncodedDocument) => end - start

const slotOf = (document: EncodedDocument, options: SampleOptions) =>
  documentSlot({ count: options.memoryCount(textTokens(document)), differentMemTokens: options.differentMemTokens })

/** Cuts a text into stretches of at most docMaxLength tokens. */
export function stretches(text: string, { tokenizer, docMaxLength }: SampleOptions): string[] {
  const ids = tokenizer.encode(text)
  if (ids.length <= docMaxLength) return [text]
  return Array.from({ length: Math.ceil(ids.length / docMaxLength) }, (_, index) =>
    tokenizer.decode(ids.slice(index * docMaxLength, (index + 1) * docMaxLength)).trim(),
  )
}

/** Cuts a passage into stretches of at most docMaxLength tokens and gives each the questions whose answer it contains. */
export function chunkPassage(passage: Pick<Passage, 'text' | 'qa'>, options: SampleOptions): Chunk[] {
  return stretches(passage.text, options).flatMap((text) => {
    const qa = passage.qa.flatMap(({ question, answers }) => {
      const answer = answers.find((candidate) => text.includes(candidate))
      return answer === undefined ? [] : [{ question: question.trim(), answer }]
    })
    return qa.length > 0 ? [{ text, document: encodeText(text, options), qa }] : []
  })
}

/** Documents and one row that reads them; document numbers in the row count from `firstDocument`. */
export interface Sample {
  readonly documents: readonly EncodedDocument[]
  readonly row: GeneratorRow
}

/** Answers to several questions over the same documents, packed into one row. */
export function answerSample(
  documents: readonly EncodedDocument[],
  questions: readonly QuestionAnswer[],
  options: SampleOptions,
  firstDocument: number,
): Sample {
  const slots = documents.map((document) => slotOf(document, options))
  const prompts = questions.map(({ question, answer }) =>
    trainingPrompt(options.tokenizer, answerPrompt(question, slots), answer, options.maxLength),
  )
  return { documents, row: packPrompts(prompts, numbers(documents, firstDocument)) }
}

/** All questions and answers of a document in one answer (the paper's SCP question-answer pairs). */
export function qaPairsSample(chunk: Chunk, options: SampleOptions, firstDocument: number): Sample {
  const answer = questionAnswerLines(chunk.qa)
  const prompt = trainingPrompt(
    options.tokenizer,
    qaPairsPrompt([slotOf(chunk.document, options)]),
    answer,
    options.maxLength,
  )
  return { documents: [chunk.document], row: packPrompts([prompt], [firstDocument]) }
}

/** A document said otherwise (the paper's SCP paraphrases), asked for in one of the 13 ways. */
export function paraphraseSample(
  { text, paraphrase }: Pick<Paraphrase, 'text' | 'paraphrase'>,
  options: SampleOptions,
  firstDocument: number,
  random: Random,
): Sample {
  const document = encodeText(text, options)
  const messages = paraphrasePrompt([slotOf(document, options)], random.int(paraphraseVariants))
  const prompt = trainingPrompt(options.tokenizer, messages, paraphrase, options.maxLength)
  return { documents: [document], row: packPrompts([prompt], [firstDocument]) }
}

/** A document repeated word for word, as far as the compressor read it. */
export function autoEncodingSample(text: string, options: SampleOptions, firstDocument: number): Sample {
  const document = encodeText(text, options)
  const messages = repeatPrompt([slotOf(document, options)])
  const prompt = trainingPrompt(options.tokenizer, messages, text, options.maxLength)
  return { documents: [document], row: packPrompts([prompt], [firstDocument]) }
}

/** A pool's document as the compressor reads it: title and text. */
export const titled = ({ title, text }: { readonly title: string; readonly text: string }): string =>
  title === '' ? text : `${title}: ${text}`

/**
 * Questions over a chunk and `others` more chunks drawn from the same file, in random order; every chunk's questions count.
 */
export function chunksSample(
  chunk: Chunk,
  pool: readonly Chunk[],
  others: number,
  options: SampleOptions,
  firstDocument: number,
  random: Random,
): Sample {
  const chosen = [chunk]
  while (chosen.length < Math.min(others + 1, pool.length)) {
    const other = pool[random.int(pool.length)]
    if (other && !chosen.includes(other)) chosen.push(other)
  }
  const questions = random.shuffle(chosen.flatMap(({ qa }) => qa)).slice(0, options.questionsPerRow)
  const documents = random.shuffle(chosen).map(({ document }) => document)
  return answerSample(documents, questions, options, firstDocument)
}

/** A question over its supporting candidates and, up to `count` documents, others of its pool. */
export function poolSample(
  question: Pick<PoolQuestion, 'question' | 'answers' | 'candidates'>,
  count: number,
  options: SampleOptions,
  firstDocument: number,
  random: Random,
): Sample {
  const supporting = question.candidates.filter((candidate) => candidate.supporting)
  const others = random.shuffle(question.candidates.filter((candidate) => !candidate.supporting))
  const chosen = random.shuffle([...supporting, ...others.slice(0, Math.max(0, count - supporting.length))])
  const documents = chosen.map((candidate) => encodeText(titled(candidate), options))
  const pair = { question: question.question.trim(), answer: question.answers[0] ?? '' }
  return answerSample(documents, [pair], options, firstDocument)
}

const numbers = (documents: readonly EncodedDocument[], first: number) => documents.map((_, index) => first + index)

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
  textSlot,
  trainingPrompt,
} from '../../clara/prompts.ts'
import type { Random } from '../../data/random.ts'
import type { Paraphrase, PoolQuestion } from '../../data/schemas.ts'
import type { TrainingPassage } from '../../data/training-data.ts'
import type { ChatMessage, PromptText, Tokenizer } from '../../tokenizer/types.ts'
import { clozeQuestions } from './cloze.ts'

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
  /** Whether samples also have their prompts with the documents' text (distillation). Default: false. */
  readonly withText?: boolean
  /** What stands in the prompts in the place of the documents. Default: memory. */
  readonly background?: 'memory' | 'text' | 'empty'
}

/** A question and what training takes for its answer. */
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

/**
 * Cuts a passage into stretches of at most docMaxLength tokens and gives each the questions whose answer it contains. A passage
 * that need not be cut keeps its free answers too.
 */
export function chunkPassage(passage: TrainingPassage, options: SampleOptions): Chunk[] {
  const pieces = stretches(passage.text, options)
  const keepsAll = passage.free === true && pieces.length === 1
  return pieces.flatMap((text) => {
    const qa = passage.qa.flatMap(({ question, answers }) => {
      const answer = answers.find((candidate) => text.includes(candidate)) ?? (keepsAll ? answers[0] : undefined)
      return answer === undefined ? [] : [{ question: question.trim(), answer }]
    })
    return qa.length > 0 ? [{ text, document: encodeText(text, options), qa }] : []
  })
}

/** Documents and one row that reads them; document numbers in the row count from `firstDocument`. */
export interface Sample {
  /** To be compressed: none where the row reads no memory. */
  readonly documents: readonly EncodedDocument[]
  readonly row: GeneratorRow
  /** The same prompts with the text, as far as the compressor read it, in the place of the memory. */
  readonly textRow?: GeneratorRow
}

/** A conversation over some documents, and the answer that it asks for. */
interface Turn {
  readonly messages: readonly ChatMessage[]
  readonly answer: string
}

/** A sample of conversations over the same documents, packed into one row. */
function sampleOf(
  documents: readonly EncodedDocument[],
  options: SampleOptions,
  firstDocument: number,
  turns: (slots: readonly PromptText[]) => readonly Turn[],
): Sample {
  const { tokenizer, maxLength, background = 'memory' } = options
  const packed = (slots: readonly PromptText[], numbers: readonly number[]) =>
    packPrompts(
      turns(slots).map(({ messages, answer }) => trainingPrompt(tokenizer, messages, answer, maxLength)),
      numbers,
    )
  const texts = () =>
    documents.map(({ ids, text }, index) =>
      textSlot(tokenizer.decode(ids.slice(...text)), index === documents.length - 1),
    )
  if (background !== 'memory') return { documents: [], row: packed(background === 'text' ? texts() : [], []) }
  const slots = documents.map((document) => slotOf(document, options))
  const row = packed(
    slots,
    documents.map((_, index) => firstDocument + index),
  )
  if (!options.withText) return { documents, row }
  return { documents, row, textRow: packed(texts(), []) }
}

/** Answers to several questions over the same documents, packed into one row. */
export function answerSample(
  documents: readonly EncodedDocument[],
  questions: readonly QuestionAnswer[],
  options: SampleOptions,
  firstDocument: number,
): Sample {
  return sampleOf(documents, options, firstDocument, (slots) =>
    questions.map(({ question, answer }) => ({ messages: answerPrompt(question, slots), answer })),
  )
}

/** All questions and answers of a document in one answer (the paper's SCP question-answer pairs). */
export function qaPairsSample(chunk: Chunk, options: SampleOptions, firstDocument: number): Sample {
  const answer = questionAnswerLines(chunk.qa)
  return sampleOf([chunk.document], options, firstDocument, (slots) => [{ messages: qaPairsPrompt(slots), answer }])
}

/** A document said otherwise (the paper's SCP paraphrases), asked for in one of the 13 ways. */
export function paraphraseSample(
  { text, paraphrase }: Pick<Paraphrase, 'text' | 'paraphrase'>,
  options: SampleOptions,
  firstDocument: number,
  random: Random,
): Sample {
  const variant = random.int(paraphraseVariants)
  return sampleOf([encodeText(text, options)], options, firstDocument, (slots) => [
    { messages: paraphrasePrompt(slots, variant), answer: paraphrase },
  ])
}

/** A document repeated word for word, as far as the compressor read it. A reader of its text would have nothing to teach. */
export function autoEncodingSample(text: string, options: SampleOptions, firstDocument: number): Sample {
  const own = { ...options, withText: false }
  return sampleOf([encodeText(text, options)], own, firstDocument, (slots) => [
    { messages: repeatPrompt(slots), answer: text },
  ])
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
  const chosen = withOthers(chunk, pool, others, random)
  const questions = random.shuffle(chosen.flatMap(({ qa }) => qa)).slice(0, options.questionsPerRow)
  const documents = random.shuffle(chosen).map(({ document }) => document)
  return answerSample(documents, questions, options, firstDocument)
}

/** Gaps of a text, and of `others` more texts drawn from the same file, in random order. */
export function clozeSample(
  text: string,
  pool: readonly string[],
  others: number,
  options: SampleOptions,
  firstDocument: number,
  random: Random,
): Sample {
  const chosen = random.shuffle(withOthers(text, pool, others, random))
  const each = Math.max(1, Math.floor(options.questionsPerRow / chosen.length))
  const questions = random.shuffle(chosen.flatMap((one) => clozeQuestions(one, each, random)))
  if (questions.length === 0) return autoEncodingSample(text, options, firstDocument)
  const documents = chosen.map((one) => encodeText(one, options))
  return answerSample(documents, questions, options, firstDocument)
}

function withOthers<Item>(first: Item, pool: readonly Item[], others: number, random: Random): Item[] {
  const chosen = [first]
  while (chosen.length < Math.min(others + 1, pool.length)) {
    const other = pool[random.int(pool.length)]
    if (other !== undefined && !chosen.includes(other)) chosen.push(other)
  }
  return chosen
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

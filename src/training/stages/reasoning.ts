import { z } from 'zod'
import type { EncodedDocument, GeneratorRow } from '../../clara/batch.ts'
import { answerPrompt, documentSlot, promptIds } from '../../clara/prompts.ts'
import { loadJsonLines } from '../../data/jsonl.ts'
import { ClaraError } from '../../errors.ts'
import type { PromptPart, PromptText } from '../../tokenizer/types.ts'
import type { DataFile } from '../config.ts'
import { encodeText, type SampleOptions } from './samples.ts'

// Stage `stage2_reasoning`: an answer that looks things up on its way. The published prompt builder is missing; ours is stage
// 2's prompt with the whole answer as the assistant's turn. What was found stands in <information> spans; their documents
// are compressed, and their memory stands in the spans' place. The generator does not write the spans, so they carry no label.

const [OPEN, CLOSE] = ['<information>', '</information>']

const text = z.string().min(1)
const reasoningSchema = z
  .object({
    question: text,
    /** The reasoning with its spans and the answer at its end; else the first of `answers`. */
    answer: text.optional(),
    answers: z.array(text).min(1).optional(),
    /** Documents that the question comes with, in the prompt itself. */
    docs: z.array(text).default([]),
  })
  .refine(({ answer, answers }) => answer !== undefined || answers !== undefined, {
    path: ['answer'],
    message: 'expected text, or answers',
  })

/** A question and the reasoning that answers it, cut at its spans. */
export interface Reasoning {
  readonly question: string
  readonly documents: readonly string[]
  readonly pieces: readonly ReasoningPiece[]
}

/** What the generator writes, or the documents of a span. */
export type ReasoningPiece = { readonly text: string } | { readonly documents: readonly string[] }

/**
 * Reads a file of reasoned answers.
 * @throws ClaraError that names file and line of what is no such record, or the question whose span does not end.
 */
export async function readReasonings({ file, task }: Pick<DataFile, 'file' | 'task'>): Promise<Reasoning[]> {
  if (task !== 'answer') {
    throw new ClaraError(`The task '${task}' has no place in the stage 'stage2_reasoning'.`, {
      expected: "task 'answer'",
      received: file,
    })
  }
  const records = await loadJsonLines(file, reasoningSchema)
  if (records.length === 0) {
    throw new ClaraError(`${file} holds nothing for the stage 'stage2_reasoning'.`, {
      expected: 'questions with answers',
    })
  }
  return records.map(({ question, answer, answers, docs }) => {
    const pieces = reasoningPieces(answer ?? answers?.[0] ?? '')
    if (pieces) return { question: question.trim(), documents: docs, pieces }
    throw new ClaraError(`The answer to ${JSON.stringify(question)} in ${file} has an ${OPEN} that does not end.`, {
      expected: `${OPEN}…${CLOSE}`,
    })
  })
}

/** Cuts an answer at its spans; undefined where one does not end. */
export function reasoningPieces(answer: string): ReasoningPiece[] | undefined {
  const pieces: ReasoningPiece[] = []
  let rest = answer
  for (let start = rest.indexOf(OPEN); start >= 0; start = rest.indexOf(OPEN)) {
    const end = rest.indexOf(CLOSE, start)
    if (end < 0) return undefined
    if (start > 0) pieces.push({ text: rest.slice(0, start) })
    // "(1) …", "(2) …", each at the beginning of a line
    const bodies = rest.slice(start + OPEN.length, end).split(/^[ \t]*\(\d+\)[ \t]*/m)
    pieces.push({ documents: bodies.map((body) => body.trim()).filter((body) => body !== '') })
    rest = rest.slice(end + CLOSE.length)
  }
  return rest === '' ? pieces : [...pieces, { text: rest }]
}

/** A reasoned answer as the generator reads it, and the documents whose memory it reads. */
export function reasoningSample(
  { question, documents, pieces }: Reasoning,
  options: SampleOptions,
  firstDocument: number,
): { readonly documents: readonly EncodedDocument[]; readonly row: GeneratorRow } {
  const { tokenizer, maxLength } = options
  const encoded: EncodedDocument[] = []
  const slot = (body: string): PromptText => {
    const document = encodeText(body, options)
    encoded.push(document)
    const [start, end] = document.text
    const count = options.memoryCount(end - start)
    return documentSlot({ count, differentMemTokens: options.differentMemTokens })
  }
  const messages = answerPrompt(question, documents.map(slot))
  const content = pieces.flatMap(
    (piece): PromptText =>
      'text' in piece
        ? [{ text: piece.text, trusted: false }]
        : [{ text: OPEN, trusted: false }, ...piece.documents.flatMap(slot), { text: CLOSE, trusted: false }],
  )
  const promptLength = promptIds(tokenizer, messages).length
  const rendered = tokenizer.renderChat([...messages, { role: 'assistant', content }])
  const ids: number[] = []
  const labelled: boolean[] = []
  const spans = pieces.filter((piece) => 'documents' in piece).length
  for (const { parts, written } of stretches(rendered, spans)) {
    // each stretch by itself, as the generator will write it: a token never spans the border of what is put in
    const next = ids.length === 0 ? tokenizer.encodeParts(parts) : continued(parts, options)
    ids.push(...next)
    for (let at = 0; at < next.length; at++) labelled.push(written)
  }
  const { length, kept } = cut(ids, encoded, options, maxLength)
  const labels = ids.flatMap((target, at) =>
    at >= promptLength && at < length && labelled[at] ? [{ position: at - 1, target }] : [],
  )
  return {
    documents: encoded.slice(0, kept),
    row: {
      ids: ids.slice(0, length),
      positions: ids.slice(0, length).map((_, at) => at),
      segments: new Array<number>(length).fill(0),
      labels,
      documents: Array.from({ length: kept }, (_, index) => firstDocument + index),
    },
  }
}

/** A rendered conversation, cut at the borders of its spans, which are the last so many: a question may quote one. */
function stretches(rendered: PromptText, spans: number): { readonly parts: PromptPart[]; readonly written: boolean }[] {
  const opens = rendered.flatMap((part, index) => (!part.trusted && part.text === OPEN ? [index] : []))
  const begin = new Set(opens.slice(opens.length - spans))
  const list: { parts: PromptPart[]; written: boolean }[] = [{ parts: [], written: true }]
  for (const [index, part] of rendered.entries()) {
    if (begin.has(index)) list.push({ parts: [], written: false })
    list.at(-1)?.parts.push(part)
    if (!part.trusted && part.text === CLOSE) list.push({ parts: [], written: true })
  }
  return list.filter(({ parts }) => parts.length > 0)
}

/** Ids of text that stands behind other text: some tokenizers treat the very first differently. */
function continued(parts: PromptText, { tokenizer }: SampleOptions): number[] {
  return tokenizer.encodeParts([{ text: '<SEP>', trusted: true }, ...parts]).slice(1)
}

/** How many ids and whole documents fit: a document whose memory would be cut is left out with all that follows. */
function cut(
  ids: readonly number[],
  documents: readonly EncodedDocument[],
  { tokenizer, memoryCount }: SampleOptions,
  maxLength: number,
): { readonly length: number; readonly kept: number } {
  const first = tokenizer.baseVocabularySize
  const end = tokenizer.idOf('<AE>') ?? first
  let at = 0
  for (const [
    kept,
    {
      text: [from, to],
    },
  ] of documents.entries()) {
    while (at < ids.length && !isMemory(ids[at])) at++
    if (at + memoryCount(to - from) > maxLength) return { length: Math.min(at, maxLength), kept }
    at += memoryCount(to - from)
  }
  return { length: Math.min(ids.length, maxLength), kept: documents.length }

  function isMemory(id: number | undefined): boolean {
    return id !== undefined && id >= first && id < end
  }
}

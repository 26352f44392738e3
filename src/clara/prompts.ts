import { ClaraError } from '../errors.ts'
import type { ChatMessage, PromptPart, PromptText, SpecialsReading, Tokenizer } from '../tokenizer/types.ts'
import type { EncodedDocument, Prompt } from './batch.ts'
import prompts from './prompts.json' with { type: 'json' }

/** How memory tokens are named; the first two are config.json's `doc_max_length / compr_rate` and `different_mem_tokens`. */
export interface MemoryTokenOptions {
  /** Memory tokens of a document of full length. */
  readonly count: number
  /** A token of its own for every slot (`<MEM0>`, `<MEM1>`, …), or `<MEM>` repeated. */
  readonly differentMemTokens: boolean
}

const encoderToken = '<ENC>'
const separatorToken = '<SEP>'

/** The tokens that CLaRa adds to its base model's vocabulary, in the published order, which fixes their ids. */
export function claraTokens(options: MemoryTokenOptions & { readonly kbtcTraining?: boolean }): string[] {
  const memory = options.differentMemTokens ? memoryTokens(options) : ['<MEM>']
  return [...memory, '<AE>', encoderToken, separatorToken, ...(options.kbtcTraining === true ? ['<KBTC>'] : [])]
}

/** The memory tokens of one document, one a slot. */
export function memoryTokens({ count, differentMemTokens }: MemoryTokenOptions): string[] {
  return Array.from({ length: count }, (_, slot) => (differentMemTokens ? `<MEM${slot}>` : '<MEM>'))
}

/** A document's place in a prompt: its memory tokens, then `<SEP>`. `count` may differ from document to document. */
export function documentSlot(options: MemoryTokenOptions): PromptText {
  return [{ text: memoryTokens(options).join('') + separatorToken, trusted: true }]
}

/** The place of a document that is read as text, a line of its own as in {@link fullTextPrompt}; whatever it contains is characters. */
export function textSlot(text: string, isLast: boolean): PromptText {
  return [...untrusted(text), ...(isLast ? [] : [{ text: '\n', trusted: true }])]
}

/** The answer prompt (stages 1_2 and 2): one slot a document, in order of rank. No slots leave an empty background. */
export function answerPrompt(question: string, slots: readonly PromptText[]): ChatMessage[] {
  return conversation(prompts.system.answer, prompts.user.answer, slots.flat(), question)
}

/** The answer prompt with the documents' full text, one a line, in the place of their memory. */
export function fullTextPrompt(question: string, documents: readonly string[]): ChatMessage[] {
  return conversation(prompts.system.answer, prompts.user.answer, untrusted(documents.join('\n')), question)
}

/** The answer prompt with an empty background: what the model knows by itself. */
export function noMemoryPrompt(question: string): ChatMessage[] {
  return answerPrompt(question, [])
}

/** Stage 1: asks for questions and answers that cover a document. The assistant's turn is {@link questionAnswerLines}. */
export function qaPairsPrompt(slots: readonly PromptText[]): ChatMessage[] {
  return conversation(prompts.system.qa_pairs, prompts.user.qa_pairs, slots.flat(), '')
}

/** The answer to {@link qaPairsPrompt}: every question with its answer, in order. */
export function questionAnswerLines(pairs: readonly { readonly question: string; readonly answer: string }[]): string {
  return pairs.map(({ question, answer }) => textOf(fill(prompts.qa_pair_line, { question, answer }))).join('\n')
}

/** Number of ways in which {@link paraphrasePrompt} can ask. */
export const paraphraseVariants: number = prompts.paraphrase.length

/** Stage 1: asks for the document in other words, in the way `variant` (0 to `paraphraseVariants - 1`). */
export function paraphrasePrompt(slots: readonly PromptText[], variant: number): ChatMessage[] {
  const user = prompts.paraphrase[variant]
  if (user === undefined) {
    throw new ClaraError('There is no such paraphrase prompt.', {
      expected: `a variant from 0 to ${paraphraseVariants - 1}`,
      received: String(variant),
    })
  }
  return conversation(prompts.system.paraphrase, user, slots.flat(), '')
}

/** Asks for the document word for word (auto-encoding); the published code has the task's token, but no prompt for it. */
export function repeatPrompt(slots: readonly PromptText[]): ChatMessage[] {
  return conversation(
    'You are a helpful assistant. Your task is to repeat the background word for word.',
    'Background:\n{docs}\n\nRepeat the background.',
    slots.flat(),
    '',
  )
}

/** A question that asks for what is missing between two pieces of a document. */
export const clozeQuestion = (before: string, after: string): string => `What is missing: ${before}____${after}`

/**
 * The same conversation with special tokens recognised in everybody's text, as the published code reads it. For comparing
 * with that code; a document can then forge turns and memory slots.
 */
export function withParsedSpecials(messages: readonly ChatMessage[]): ChatMessage[] {
  return messages.map(({ role, content }) => ({ role, content: [{ text: textOf(content), trusted: true }] }))
}

/** Ids that the generator reads before it answers: the rendered conversation with the assistant's turn opened. */
export function promptIds(tokenizer: Tokenizer, messages: readonly ChatMessage[]): number[] {
  return tokenizer.encodeParts(tokenizer.renderChat(messages, { addGenerationPrompt: true }))
}

/**
 * A conversation with its answer, for training: labels are `ids` from `promptLength` on, which includes what the template
 * puts after the answer. `promptLength` is that of the conversation rendered alone, as in the published code.
 *
 * @param answer The assistant's turn; a plain string is untrusted text.
 * @param maxLength Ids are cut to this many, on the right. Default: not cut.
 */
export function trainingPrompt(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  answer: string | PromptText,
  maxLength = Number.POSITIVE_INFINITY,
): Prompt {
  const answered = [...messages, { role: 'assistant', content: answer } as const]
  const ids = tokenizer.encodeParts(tokenizer.renderChat(answered)).slice(0, maxLength)
  return { ids, promptLength: Math.min(promptIds(tokenizer, messages).length, ids.length) }
}

export interface EncodeDocumentOptions {
  /** `doc_max_length`: the text is cut so that text, bos, eos and `<ENC>` fit in this many ids + 3 (+ 8 with a query). */
  readonly docMaxLength: number
  /** Memory tokens to append (memory 'tokens'). Default: none. */
  readonly memory?: MemoryTokenOptions
  /** Compress with regard to this question. */
  readonly query?: string
  /** Whether special tokens in the text and the query are recognised, as in the published code. Default `plain`. */
  readonly specials?: SpecialsReading
}

/**
 * What the compressor reads (and the query reasoner, whose document is the question): `<ENC><bos>text<eos>`, cut on the right,
 * then the memory tokens. A long text loses its eos. Not padded.
 *
 * @throws ClaraError when the tokenizer lacks a bos token or the tokens of {@link claraTokens}.
 */
export function encodeDocument(tokenizer: Tokenizer, text: string, options: EncodeDocumentOptions): EncodedDocument {
  const { docMaxLength, query, memory } = options
  idOfAdded(tokenizer, encoderToken)
  if (tokenizer.bosToken === undefined) {
    throw new ClaraError('The tokenizer has no beginning-of-text token, which a compressed document starts with.', {
      hint: 'Set bos_token in tokenizer_config.json.',
    })
  }
  const foreign = (content: string): PromptPart => ({ text: content, trusted: options.specials === 'parse' })
  const before: PromptPart[] = [{ text: encoderToken + tokenizer.bosToken, trusted: true }]
  if (query !== undefined) {
    before.push({ text: '\nQuery:\n', trusted: true }, foreign(query), { text: 'Document:\n', trusted: true })
  }
  const whole = tokenizer.encodeParts([...before, foreign(text), { text: tokenizer.eosToken, trusted: true }])
  const ids = whole.slice(0, docMaxLength + (query === undefined ? 3 : 8))
  const end = Math.min(whole.length - 1, ids.length)
  const start = Math.min(tokenizer.encodeParts(before).length, end)
  const slots = memory === undefined ? [] : memoryTokens(memory).map((token) => idOfAdded(tokenizer, token))
  return { ids: [...ids, ...slots], text: [start, end], memoryTokens: slots.length }
}

function idOfAdded(tokenizer: Tokenizer, token: string): number {
  const id = tokenizer.idOf(token)
  if (id !== undefined) return id
  throw new ClaraError(`The tokenizer does not know ${token}.`, {
    hint: 'Add the tokens of claraTokens() to it with withAddedTokens().',
  })
}

function conversation(system: string, user: string, docs: PromptText, query: string): ChatMessage[] {
  return [
    { role: 'system', content: [{ text: system, trusted: true }] },
    { role: 'user', content: fill(user, { docs, query }) },
  ]
}

/** Puts values into the `{name}` places of a prompt string; a plain string is untrusted text. */
function fill(template: string, values: Readonly<Record<string, string | PromptText>>): PromptText {
  // Odd pieces of the split are names.
  return template.split(/\{(\w+)\}/).flatMap((piece, index): PromptText => {
    if (index % 2 === 0) return [{ text: piece, trusted: true }]
    const value = values[piece] ?? ''
    return typeof value === 'string' ? untrusted(value) : value
  })
}

function untrusted(text: string): PromptText {
  return [{ text, trusted: false }]
}

function textOf(content: string | PromptText): string {
  return typeof content === 'string' ? content : content.map(({ text }) => text).join('')
}

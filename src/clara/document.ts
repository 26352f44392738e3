import { ClaraError } from '../errors.ts'
import type { Tokenizer } from '../tokenizer/types.ts'
import type { EncodedDocument } from './batch.ts'
import { memoryLength } from './config.ts'
import type { ClaraModel } from './model.ts'
import { encodeDocument, type MemoryTokenOptions } from './prompts.ts'

/** A text as the compressor reads it, and how many of its tokens did not fit. */
export interface EncodedText {
  readonly document: EncodedDocument
  readonly truncatedTokens: number
}

/**
 * A document as a compressor reads it, cut to its length.
 * @param memory The memory tokens to append (memory 'tokens'), undefined for pooled memory.
 */
export function compressorDocument(
  tokenizer: Tokenizer,
  text: string,
  docMaxLength: number,
  memory: MemoryTokenOptions | undefined,
): EncodedDocument {
  if (memory) return encodeDocument(tokenizer, text, { docMaxLength, memory })
  // pooled memory counts text tokens alone: one fewer than the published limit leaves exactly docMaxLength of them
  return encodeDocument(tokenizer, text, { docMaxLength: docMaxLength - 1 })
}

/** Characters per token beyond which a text cannot be a single chunk, whatever its language. */
const CHARACTERS_PER_TOKEN = 64

/**
 * Encodes a text for the compressor.
 * @param name What to call it in an error.
 * @throws ClaraError when the text is empty, or so long that it was surely not meant as one document.
 */
export function encodeText(model: Pick<ClaraModel, 'tokenizer' | 'config'>, text: string, name: string): EncodedText {
  const { tokenizer, config } = model
  const { doc_max_length: docMaxLength, different_mem_tokens: differentMemTokens } = config
  if (text.trim() === '')
    throw new ClaraError(`${name} is empty.`, { hint: 'Leave it out: there is nothing to compress.' })
  const longest = docMaxLength * CHARACTERS_PER_TOKEN
  if (text.length > longest) {
    throw new ClaraError(`${name} has ${text.length} characters, but is compressed as a whole.`, {
      expected: `at most ${docMaxLength} tokens (never more than ${longest} characters)`,
      hint: 'Split it first, or add it to a KnowledgeBase, which splits.',
    })
  }
  const memory = { count: memoryLength(config), differentMemTokens }
  const pooled = config.compressor.memory !== 'tokens'
  const document = compressorDocument(tokenizer, text, docMaxLength, pooled ? undefined : memory)
  const [start, end] = document.text
  return { document, truncatedTokens: Math.max(0, tokenizer.encode(text).length - (end - start)) }
}

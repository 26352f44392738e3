import { createHash } from 'node:crypto'
import type { AnswerDocument } from '../../src/clara/clara.ts'
import { claraConfig } from '../../src/clara/config.ts'
import type { Memory } from '../../src/clara/encoder.ts'
import { memorySimilarity, type Similarity } from '../../src/clara/similarity.ts'
import type { KnowledgeModel } from '../../src/knowledge/model.ts'

const hidden = 32

export interface FakeModel extends KnowledgeModel {
  /** Every text that was compressed, in order. */
  readonly compressed: string[]
  /** What the last answer was written from. */
  read: readonly AnswerDocument[]
  /** What was asked last, and the texts that it was asked over, where those were read in full. */
  asked: { readonly question: string; readonly documents?: readonly string[] }
}

/** A model whose token is a word and whose memory has one token a word, the same wherever the word stands. */
export function fakeModel(
  options: { similarity?: Similarity; maxTokens?: number; fingerprint?: string } = {},
): FakeModel {
  const { similarity = 'maxsim', maxTokens = 8, fingerprint = 'fake' } = options
  const config = claraConfig.parse({
    compr_rate: 1,
    doc_max_length: maxTokens,
    generation_top_k: 2,
    compressor:
      similarity === 'maxsim' ? { memory: 'mean', similarity, proportional: true } : { memory: 'mean', similarity },
  })
  const compress = async (texts: readonly string[], { signal }: { signal?: AbortSignal } = {}) => {
    signal?.throwIfAborted()
    return texts.map((text) => ({
      ...memoryOf(text, similarity === 'flat' ? maxTokens : undefined),
      truncatedTokens: 0,
    }))
  }
  const fake: FakeModel = {
    compressed: [],
    read: [],
    asked: { question: '' },
    model: {
      config,
      fingerprint,
      tokenizer: { encode: (text) => words(text).map((_, index) => index) },
      base: { config: { hidden_size: hidden } },
    },
    async compressDocuments(texts, settings) {
      const memories = await compress(texts, settings)
      fake.compressed.push(...texts)
      return memories
    },
    compressQuestions: compress,
    score: (question, document) => memorySimilarity(similarity, question.tokens, document.tokens, hidden),
    async *streamFullTextAnswer(question, documents) {
      fake.asked = { question, documents }
      yield ' Rewritten question?'
    },
    async *streamAnswer(question, memories, { maxNewTokens = 3, signal } = {}) {
      fake.read = memories
      fake.asked = { question }
      for (const piece of [' one', ' two', ' three'].slice(0, maxNewTokens)) {
        signal?.throwIfAborted()
        yield piece
      }
    },
    promptTokens: (question, source) =>
      words(question).length +
      ('memories' in source
        ? source.memories.reduce((sum, one) => sum + ('text' in one ? words(one.text).length : one.shape[0]), 0)
        : source.documents.reduce((sum, text) => sum + words(text).length, 0)),
  }
  return fake
}

const words = (text: string) => text.toLowerCase().match(/[\p{L}\p{N}]+/gu) ?? []

export function memoryOf(text: string, fixedCount?: number): Memory {
  const spoken = words(text)
  const count = fixedCount ?? spoken.length
  const tokens = new Float32Array(count * hidden)
  for (let index = 0; index < count; index++) {
    const digest = createHash('sha256')
      .update(spoken[index % spoken.length] ?? '')
      .digest()
    tokens.set(
      Float32Array.from(digest, (byte) => byte - 127.5),
      index * hidden,
    )
  }
  return { tokens, shape: [count, hidden] }
}

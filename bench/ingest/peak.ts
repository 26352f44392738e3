import { claraConfig } from '../../src/clara/config.ts'
import { KnowledgeBase } from '../../src/knowledge/knowledge-base.ts'
import type { KnowledgeModel } from '../../src/knowledge/model.ts'
import { peakMiB } from '../peak.ts'

export interface PeakOptions {
  /** Passages to add, eight to a document. */
  readonly passages: number
  /** Memory of a passage: tokens and their width. */
  readonly shape: readonly [tokens: number, width: number]
  /** Folder for the store. */
  readonly store: string
}

const WORDS_PER_PASSAGE = 100
const PASSAGES_PER_DOCUMENT = 8

/** Adds passages through a knowledge base whose compressor is made up, and tells the most memory that the process held. */
export async function addAndTell({
  passages,
  shape,
  store,
}: PeakOptions): Promise<{ peakMiB: number; compressed: number }> {
  await using knowledge = await KnowledgeBase.open(store, { clara: stubModel(shape) })
  const { compressed } = await knowledge.add(documents(passages))
  return { peakMiB: peakMiB(), compressed }
}

function* documents(passages: number) {
  for (let first = 0; first < passages; first += PASSAGES_PER_DOCUMENT) {
    const count = Math.min(PASSAGES_PER_DOCUMENT, passages - first)
    const text = Array.from(
      { length: count * WORDS_PER_PASSAGE },
      (_, word) => `word${(first * 31 + word * 17) % 9_973}`,
    ).join(' ')
    yield { id: `d${first}`, text }
  }
}

/** Its token is a word; its memories have the shape of a real model's and numbers that follow from the text. */
function stubModel([tokens, width]: readonly [number, number]): KnowledgeModel {
  const config = claraConfig.parse({
    compr_rate: 4,
    doc_max_length: WORDS_PER_PASSAGE,
    compressor: { memory: 'mean', similarity: 'maxsim', proportional: true },
  })
  const compress = async (texts: readonly string[]) =>
    texts.map((text) => ({
      tokens: Float32Array.from({ length: tokens * width }, (_, index) => Math.sin(index * (text.length + 1))),
      shape: [tokens, width] as const,
      truncatedTokens: 0,
    }))
  const none = () => {
    throw new RangeError('The stub neither scores nor answers.')
  }
  return {
    model: {
      config,
      fingerprint: 'stub',
      tokenizer: { encode: (text) => Array.from(text.matchAll(/\S+/g), (_, index) => index) },
      base: { config: { hidden_size: width } },
    },
    compressDocuments: compress,
    compressQuestions: compress,
    score: none,
    streamAnswer: none,
    streamFullTextAnswer: none,
    promptTokens: none,
  }
}

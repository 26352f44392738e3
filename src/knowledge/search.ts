import type { Memory } from '../clara/encoder.ts'
import type { Similarity } from '../clara/similarity.ts'
import { ClaraError } from '../errors.ts'
import { dequantiseMemory } from '../store/quantise.ts'
import type {
  Candidate,
  JsonValue,
  RowFilter,
  Store,
  StoredMemory,
  StoreRow,
  VectorSearchOptions,
} from '../store/store.ts'
import { type PassagePlace, placeOf } from './chunks.ts'
import { CANDIDATES } from './defaults.ts'
import { fuse } from './fusion.ts'
import type { KnowledgeModel } from './model.ts'

/** How passages are found: in latent space, by words, or both. */
export const searchModes = ['hybrid', 'latent', 'text'] as const
export type SearchMode = (typeof searchModes)[number]

/** What orders the passages that both kinds of search have found. */
export const searchOrders = ['fused', 'score'] as const
export type SearchOrder = (typeof searchOrders)[number]

export interface SearchOptions {
  /** Passages to return, the best first; with fewer that qualify, all of those. Default: the model's generation_top_k. */
  readonly topK?: number
  /**
   * `latent`: candidates by the compact retrieval vector, in the order of the model's own score. `text`: by words (BM25), in that order.
   * `hybrid`: candidates of both, united by reciprocal rank fusion. Default: `hybrid`.
   */
  readonly mode?: SearchMode
  /** Passages of which the model's own score is computed. Default: 160, or topK if that is more. */
  readonly candidates?: number
  /** In `hybrid`, what the candidates are ordered by: the `score` alone, or its rank `fused` with that by words. Default: `score`. */
  readonly order?: SearchOrder
  /** In `hybrid`, how much the two kinds of rank count wherever they are fused. Default: 1 each. */
  readonly weights?: { readonly latent?: number; readonly text?: number }
  /** Which passages to consider. */
  readonly filter?: RowFilter
  /** Passages that score less are left out. Scores depend on the model: look at those of good and of bad answers first. Default: none are. */
  readonly minScore?: number
  readonly signal?: AbortSignal
}

/** A passage that was found. */
export interface Source extends PassagePlace {
  readonly id: string
  readonly documentId: string
  /** Its place among the document's passages, from 0. */
  readonly chunk: number
  /** What was compressed: the passage, and before it the title and headings that it stands under, where they fit. */
  readonly text: string
  /** The model's own similarity to the question, at most 1: the cosine (flat), or its mean over the question's tokens (maxsim). */
  readonly score: number
  /** BM25 of the question's words; absent where words were not looked for, or none is shared. */
  readonly textScore?: number
  readonly metadata: Readonly<Record<string, JsonValue>>
}

export interface Found {
  readonly source: Source
  readonly memory: Memory
}

/** What a search needs of a knowledge base. */
export interface SearchTarget {
  readonly clara: Pick<KnowledgeModel, 'score'> & {
    readonly model: Pick<KnowledgeModel['model'], 'fingerprint'> & {
      readonly config: { readonly compressor: { readonly similarity: Similarity } }
    }
  }
  readonly store: Store
  readonly vectorOf: (memory: Memory) => Float32Array
}

/** Characters per token beyond which a question cannot be one, whatever its language. */
const CHARACTERS_PER_TOKEN = 64

/** Finds the passages that fit a question best; none, when nothing qualifies. */
export async function find(
  question: string,
  target: SearchTarget & { readonly clara: KnowledgeModel },
  options: SearchOptions,
): Promise<Found[]> {
  const { clara, store } = target
  const { config } = clara.model
  const { topK = config.generation_top_k, signal } = options
  checkQuestion(question, config.doc_max_length)
  const [asked] = await clara.compressQuestions([question], signal ? { signal } : {})
  if (!asked) throw new RangeError('The model gave no memory for the question.')
  const { ids, scored, textScores } = await rank(question, asked, target, { ...options, topK })
  const rows = await store.get(ids)
  return rows.flatMap((row) => {
    const score = row && scored.get(row.id)
    if (row === undefined || score === undefined) return []
    return [{ source: sourceOf(row, score, textScores.get(row.id)), memory: memoryOf(row.memory) }]
  })
}

/** Passages in order, the best first, with the model's own scores. */
export interface Ranked {
  readonly ids: readonly string[]
  readonly scored: ReadonlyMap<string, number>
  readonly textScores: ReadonlyMap<string, number>
}

/** Retrieval in two steps: candidates from the store, then the model's own score of their memory. `asked`: memory of the question. */
export async function rank(
  question: string,
  asked: Memory,
  target: SearchTarget,
  options: SearchOptions & { readonly topK: number },
): Promise<Ranked> {
  const { clara, store } = target
  const { topK, mode = 'hybrid', order = 'score', filter, minScore, signal } = options
  const { latent = 1, text = 1 } = mode === 'hybrid' ? (options.weights ?? {}) : {}
  const limit = Math.max(topK, options.candidates ?? CANDIDATES)
  const narrowed = { limit, ...(filter ? { filter } : {}) }
  const [{ found: byMemory, areScored }, byWords] = await Promise.all([
    mode === 'text' ? { found: [], areScored: false } : latentCandidates(asked, target, narrowed),
    mode === 'latent' ? [] : store.searchText(question, narrowed),
  ])
  signal?.throwIfAborted()
  const textScores = new Map(byWords.map(({ id, score }) => [id, score]))
  const words = { ids: byWords.map(({ id }) => id), weight: text }
  const candidates = fuse([{ ids: byMemory.map(({ id }) => id), weight: latent }, words]).slice(0, limit)

  const scored = new Map<string, number>()
  const keep = (id: string, score: number) => {
    if (minScore === undefined || score >= minScore) scored.set(id, score)
  }
  // what was found by its memory has been scored by it
  const known = new Map(areScored ? byMemory.map(({ id, score }) => [id, score]) : [])
  const unknown = candidates.filter((id) => !known.has(id))
  const read = unknown.length === 0 ? [] : await store.memories(unknown)
  const greatest = greatestScore(clara.model.config.compressor.similarity, asked)
  for (const id of candidates) {
    const score = known.get(id)
    if (score !== undefined) keep(id, score)
  }
  for (const [index, id] of unknown.entries()) {
    const stored = read[index]
    if (stored !== undefined) keep(id, clara.score(asked, memoryOf(stored)) / greatest)
  }
  const byScore = [...scored].sort(([one, a], [other, b]) => b - a || (one < other ? -1 : 1)).map(([id]) => id)
  const ranked =
    mode === 'text'
      ? words.ids
      : mode === 'latent' || order === 'score'
        ? byScore
        : fuse([{ ids: byScore, weight: latent }, words])
  return { ids: ranked.filter((id) => scored.has(id)).slice(0, topK), scored, textScores }
}

/** By late interaction, with the model's own scores, where these are late interaction and the store can; by retrieval vectors otherwise. */
async function latentCandidates(
  asked: Memory,
  { clara, store, vectorOf }: SearchTarget,
  narrowed: Pick<VectorSearchOptions, 'limit' | 'filter'>,
): Promise<{ readonly found: readonly Candidate[]; readonly areScored: boolean }> {
  const { fingerprint, config } = clara.model
  const options = { fingerprint, ...narrowed }
  if (config.compressor.similarity !== 'maxsim' || store.searchMemory === undefined) {
    return { found: await store.search(vectorOf(asked), options), areScored: false }
  }
  const [n, width] = asked.shape
  const query = { dtype: 'float32', tokens: asked.tokens, n, width } as const
  return { found: await store.searchMemory(query, options), areScored: true }
}

/** @throws ClaraError that names the option. */
export function checkSearchOptions({ topK, mode, order, candidates, weights, minScore }: SearchOptions): void {
  const wrong = (name: string, value: unknown, expected: string) =>
    new ClaraError(`${name} cannot be ${String(value)}.`, { expected })
  for (const [name, value] of Object.entries({ topK, candidates })) {
    if (value !== undefined && !(Number.isSafeInteger(value) && value >= 1))
      throw wrong(name, value, 'an integer from 1')
  }
  if (mode !== undefined && !searchModes.includes(mode)) throw wrong('mode', mode, `one of ${searchModes.join(', ')}`)
  if (order !== undefined && !searchOrders.includes(order))
    throw wrong('order', order, `one of ${searchOrders.join(', ')}`)
  for (const [name, value] of Object.entries(weights ?? {})) {
    if (value !== undefined && !(Number.isFinite(value) && value >= 0))
      throw wrong(`weights.${name}`, value, 'a number from 0')
  }
  if (weights?.latent === 0 && weights.text === 0)
    throw wrong('weights', '0 for both', 'a number above 0 for one of them')
  if (minScore !== undefined && !Number.isFinite(minScore)) throw wrong('minScore', minScore, 'a number')
}

function checkQuestion(question: string, docMaxLength: number): void {
  if (typeof question !== 'string' || question.trim() === '') {
    throw new ClaraError('The question is empty.', { hint: 'Ask something.' })
  }
  const longest = docMaxLength * CHARACTERS_PER_TOKEN
  if (question.length > longest) {
    throw new ClaraError(`The question has ${question.length} characters.`, {
      expected: `at most ${longest}`,
      hint: 'Put what is to be read into a document, and ask about it.',
    })
  }
}

/** What a document that has all of the question in it would score. */
function greatestScore(similarity: Similarity, asked: Memory): number {
  return similarity === 'maxsim' ? asked.shape[0] : 1
}

function memoryOf(stored: StoredMemory): Memory {
  const { tokens, n, width } = dequantiseMemory(stored)
  return { tokens, shape: [n, width] }
}

function sourceOf(row: StoreRow, score: number, textScore: number | undefined): Source {
  const { id, documentId, chunk, text } = row
  const { place, metadata } = placeOf(row)
  return { id, documentId, chunk, text, score, ...(textScore === undefined ? {} : { textScore }), ...place, metadata }
}

import { ClaraError } from '../errors.ts'
import type { Tensor } from '../graph/graph.ts'
import { multiplyDims } from '../graph/shape.ts'
import { add, multiply, scalar, scale, subtract } from '../ops/elementwise.ts'
import { reshape } from '../ops/layout.ts'
import { matmul } from '../ops/matmul.ts'
import { l2Normalise } from '../ops/normalise.ts'
import { dimAt, mismatch } from '../ops/operator.ts'
import { reduceMax, reduceSum } from '../ops/reduce.ts'
import type { CompressorConfig } from './config.ts'

/**
 * How near a question's memory is to a document's. *flat* is the paper's: the cosine of the flattened memories, which must
 * have equally many tokens. *maxsim* is late interaction (Khattab and Zaharia 2020): over the query's tokens, the sum of the
 * best cosine with any token of the document; lengths are free.
 */
export type Similarity = CompressorConfig['similarity']

/** A cosine this small is below every real one: what a padded memory token gets. */
const ABSENT = -1e9

/**
 * Flat similarity as graph code.
 *
 * @param query [batch, tokens, hidden]
 * @param documents [batch, pool, tokens, hidden], or [1, pool, tokens, hidden]: one pool for all queries
 * @returns [batch, pool]
 */
export function flatSimilarity(query: Tensor, documents: Tensor): Tensor {
  const { batch, pools, pool, tokens, hidden } = poolShape('flatSimilarity', query, documents)
  if (dimAt(query, 1) !== tokens) {
    throw mismatch('flatSimilarity', [query, documents], 'query and documents differ in memory tokens')
  }
  const width = multiplyDims(tokens, hidden)
  const directions = l2Normalise(reshape(documents, [pools, pool, width]))
  const direction = l2Normalise(reshape(query, [batch, 1, width]))
  return reshape(matmul(direction, directions, { transposeB: true }), [batch, pool])
}

/** Which memory tokens exist: 1, or 0 for padding. */
export interface MemoryMasks {
  /** float32 [batch, query tokens]; other weights than 0 and 1 weigh the tokens. */
  readonly query?: Tensor | undefined
  /** float32 [batch, pool, tokens], or [1, pool, tokens] with one pool. A document without any token scores far below all others. */
  readonly documents?: Tensor | undefined
}

/**
 * Maxsim as graph code.
 *
 * @param query [batch, query tokens, hidden]
 * @param documents [batch, pool, tokens, hidden], or [1, pool, tokens, hidden]: one pool for all queries
 * @returns [batch, pool]
 */
export function maxSimilarity(query: Tensor, documents: Tensor, masks: MemoryMasks = {}): Tensor {
  const { batch, pools, pool, tokens, hidden } = poolShape('maxSimilarity', query, documents)
  const asked = dimAt(query, 1)
  const directions = l2Normalise(reshape(documents, [pools, multiplyDims(pool, tokens), hidden]))
  const pairs = matmul(l2Normalise(query), directions, { transposeB: true })
  let cosines = reshape(pairs, [batch, asked, pool, tokens])
  if (masks.documents) {
    const absent = scale(subtract(scalar(query, 1), masks.documents), ABSENT)
    cosines = add(cosines, reshape(absent, [pools, 1, pool, tokens]))
  }
  const best = reduceMax(cosines, [-1])
  return reduceSum(masks.query ? multiply(best, reshape(masks.query, [batch, asked, 1])) : best, [1])
}

function poolShape(what: string, query: Tensor, documents: Tensor) {
  const fits =
    query.shape.length === 3 &&
    documents.shape.length === 4 &&
    (documents.shape[0] === 1 || query.shape[0] === documents.shape[0]) &&
    query.shape[2] === documents.shape[3]
  if (!fits) {
    throw mismatch(
      what,
      [query, documents],
      'expected a query [batch, tokens, hidden] and documents [batch or 1, pool, tokens, hidden]',
    )
  }
  return {
    batch: dimAt(query, 0),
    pools: dimAt(documents, 0),
    pool: dimAt(documents, 1),
    tokens: dimAt(documents, 2),
    hidden: dimAt(documents, 3),
  }
}

/**
 * Similarity of two memories on plain numbers, each the row-major [tokens, hidden] of one text.
 *
 * @param hidden Numbers of one memory token.
 * @throws ClaraError when a memory does not divide into tokens, or `flat` compares different numbers of them.
 */
export function memorySimilarity(
  kind: Similarity,
  query: Float32Array,
  document: Float32Array,
  hidden: number,
): number {
  for (const [what, memory] of [['query', query] as const, ['document', document] as const]) {
    if (memory.length === 0 || memory.length % hidden !== 0) {
      throw new ClaraError(`The ${what}'s memory has ${memory.length} numbers.`, {
        expected: `memory tokens of ${hidden} numbers each`,
        hint: 'Both memories must come from the same model.',
      })
    }
  }
  if (kind === 'maxsim') return maxsim(query, document, hidden)
  if (query.length !== document.length) {
    throw new ClaraError(
      `A query of ${query.length / hidden} memory tokens has no flat similarity to a document of ${document.length / hidden}.`,
      { expected: 'equally many tokens', hint: "Use similarity 'maxsim'." },
    )
  }
  return (
    dot(query, 0, document, 0, query.length) *
    inverseNorm(query, 0, query.length) *
    inverseNorm(document, 0, query.length)
  )
}

function maxsim(query: Float32Array, document: Float32Array, hidden: number): number {
  const inverse = new Float64Array(document.length / hidden)
  for (let token = 0; token < inverse.length; token++) inverse[token] = inverseNorm(document, token * hidden, hidden)
  let sum = 0
  for (let asked = 0; asked < query.length; asked += hidden) {
    let best = Number.NEGATIVE_INFINITY
    for (let token = 0; token < inverse.length; token++) {
      best = Math.max(best, dot(query, asked, document, token * hidden, hidden) * (inverse[token] ?? 0))
    }
    sum += best * inverseNorm(query, asked, hidden)
  }
  return sum
}

/** As in the graph, with the same 1e-12 under the root. */
function inverseNorm(values: Float32Array, start: number, length: number): number {
  return 1 / Math.sqrt(dot(values, start, values, start, length) + 1e-12)
}

function dot(a: Float32Array, fromA: number, b: Float32Array, fromB: number, length: number): number {
  let sum = 0
  for (let index = 0; index < length; index++) sum += (a[fromA + index] ?? 0) * (b[fromB + index] ?? 0)
  return sum
}

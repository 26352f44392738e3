import { ClaraError } from '../errors.ts'
import { addConstant, type Tensor } from '../graph/graph.ts'
import { multiplyDims } from '../graph/shape.ts'
import { add, log, scalar, scale, stopGradient, subtract } from '../ops/elementwise.ts'
import { scatterAdd, topK } from '../ops/indexing.ts'
import { expand, reshape } from '../ops/layout.ts'
import { matmul } from '../ops/matmul.ts'
import { softmax } from '../ops/normalise.ts'
import { dimAt, mismatch } from '../ops/operator.ts'

/** Keeps the logarithm of an excluded candidate finite. */
const MASK_EPSILON = 1e-8

export interface TopKChoice {
  /** [batch, k, pool]: slot j's choice as a one-hot row in the forward pass, its soft distribution in the backward pass. */
  readonly weights: Tensor
  /** int64 [batch, k]: the chosen candidates in descending order of score. */
  readonly indices: Tensor
}

/**
 * Differentiable top-k (paper section 3.4) as graph code: the forward pass is exactly the hard choice, the gradient that of
 * a softmax over scores / τ, in which the choices of earlier slots are masked by adding log(1 - taken + 1e-8). With k = 1
 * nothing is masked: plain softmax and argmax.
 *
 * @param scores [batch, pool]; where the pool is symbolic, a k beyond it is found only when the graph runs.
 * @param temperature τ; the published value is 0.02.
 * @throws ClaraError when k exceeds the pool.
 */
export function differentiableTopK(scores: Tensor, k: number, temperature: number): TopKChoice {
  if (scores.shape.length !== 2) throw mismatch('differentiableTopK', [scores], 'the scores must be [batch, pool]')
  const [batch, pool] = [dimAt(scores, 0), dimAt(scores, 1)]
  if (typeof pool === 'number') requirePool(k, pool)
  const scaled = scale(scores, 1 / temperature)
  const { indices } = topK(scaled, k)
  const zeros = expand(scalar(scaled, 0), [batch, k, pool])
  const ones = expand(scalar(scaled, 1), [batch, k, 1])
  const hard = scatterAdd(zeros, reshape(indices, [batch, k, 1]), ones, 2)

  let logits = expand(reshape(scaled, [batch, 1, pool]), [batch, k, pool])
  if (k > 1) {
    const taken = matmul(earlierSlots(scores, k), hard)
    logits = add(logits, log(add(subtract(scalar(hard, 1), taken), scalar(hard, MASK_EPSILON))))
  }
  const soft = softmax(logits)
  // this order, because (hard + soft) - soft is not exactly hard in floating point
  const weights = add(stopGradient(hard), subtract(soft, stopGradient(soft)))
  return { weights, indices }
}

/** [k, k] with ones below the diagonal: row j sums the slots before j. */
function earlierSlots(like: Tensor, k: number): Tensor {
  const data = Float32Array.from({ length: k * k }, (_, index) => (index % k < Math.floor(index / k) ? 1 : 0))
  return addConstant(like.graph, { dtype: 'float32', dims: [k, k], data })
}

/**
 * The memory of the chosen documents, Z · M.
 *
 * @param weights [batch, k, pool]
 * @param memory [batch, pool, memory tokens, hidden], or [1, pool, memory tokens, hidden]: one pool for all
 * @returns [batch, k, memory tokens, hidden]
 */
export function chosenMemory(weights: Tensor, memory: Tensor): Tensor {
  if (memory.shape.length !== 4) {
    throw mismatch('chosenMemory', [weights, memory], 'the memory must be [batch, pool, memory tokens, hidden]')
  }
  const [pools, pool, tokens, hidden] = [dimAt(memory, 0), dimAt(memory, 1), dimAt(memory, 2), dimAt(memory, 3)]
  const flat = reshape(memory, [pools, pool, multiplyDims(tokens, hidden)])
  return reshape(matmul(weights, flat), [dimAt(weights, 0), dimAt(weights, 1), tokens, hidden])
}

/**
 * The k best candidates on plain numbers, best first; of equal scores the earlier candidate.
 *
 * @throws ClaraError when k exceeds the pool, or a score is not a number.
 */
export function hardTopK(scores: ArrayLike<number>, k: number): number[] {
  requirePool(k, scores.length)
  const all = Array.from(scores)
  const broken = all.findIndex(Number.isNaN)
  if (broken >= 0) throw new ClaraError(`The score of candidate ${broken} is not a number.`)
  const order = all.map((_, index) => index)
  // the sort is stable
  return order.sort((a, b) => (all[b] ?? 0) - (all[a] ?? 0)).slice(0, k)
}

/** @throws ClaraError unless k documents can be chosen from a pool of that size. */
export function requirePool(k: number, pool: number): void {
  if (Number.isInteger(k) && k >= 1 && k <= pool) return
  throw new ClaraError(`Cannot choose the ${k} best of ${pool} documents.`, {
    expected: `topK to be a whole number from 1 to ${pool}`,
    hint: 'Give more documents, or a smaller topK.',
  })
}

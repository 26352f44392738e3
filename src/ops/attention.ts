import type { Tensor } from '../graph/graph.ts'
import { MICROSOFT } from '../graph/onnx.ts'
import { multiplyDims } from '../graph/shape.ts'
import { applyOne, at, dimAt, mismatch, type Operator, requireDType } from './operator.ts'

export interface CachedAttentionAttributes {
  readonly heads: number
  readonly groups: number
  /** Factor of the products of queries and keys. */
  readonly scale: number
}

/** The node's rule: the width of a head is a multiple of this. */
export const CACHED_HEAD_MULTIPLE = 8

/**
 * Grouped-query attention of new positions to a cache and to themselves, in one node (ONNX Runtime's GroupQueryAttention):
 * softmax(scale · q kᵀ + bias) v, where a new position sees those before it. Of the cache the first
 * `total - length` positions count.
 */
const cachedAttentionOperator: Operator<CachedAttentionAttributes> = {
  name: 'CachedAttention',
  infer(inputs, { heads, groups }) {
    requireDType('CachedAttention', inputs, [0, 1, 2, 3, 4, 7], 'float32')
    requireDType('CachedAttention', inputs, [5, 6], 'int32')
    const [queries, keys, values, pastKeys, pastValues] = inputs as readonly Tensor[] as [
      Tensor,
      Tensor,
      Tensor,
      Tensor,
      Tensor,
    ]
    const [batch, length, width] = queries.shape
    const headWidth = dimAt(pastKeys, 3)
    const fits =
      queries.shape.length === 3 &&
      width === multiplyDims(heads, headWidth) &&
      [keys, values].every((x) => x.shape.join() === [batch, length, multiplyDims(groups, headWidth)].join()) &&
      [pastKeys, pastValues].every(({ shape }) => shape.length === 4 && shape[0] === batch && shape[1] === groups) &&
      pastKeys.shape.join() === pastValues.shape.join()
    if (!fits) {
      throw mismatch('CachedAttention', inputs, `the operands do not fit ${heads} heads in ${groups} groups`)
    }
    return [{ dtype: 'float32', shape: queries.shape }]
  },
  emit(node, { heads, groups, scale }, { temporary }) {
    const [queries, keys, values, pastKeys, pastValues, last, total, bias] = node.inputs.map((x) => x?.name ?? '')
    // the node also joins old and new keys and values; that is of no use here
    const outputs = [at(node.outputs, 0).name, temporary(), temporary()]
    const inputs = [queries, keys, values, pastKeys, pastValues, last, total, '', '', '', bias]
    return [
      {
        type: 'GroupQueryAttention',
        domain: MICROSOFT,
        inputs: inputs.map((name) => name ?? ''),
        outputs,
        attributes: { num_heads: heads, kv_num_heads: groups, scale: { float: scale } },
      },
    ]
  },
  gradient: { notDifferentiable: 'a cache is for inference' },
}

export interface CachedAttentionOptions extends Omit<CachedAttentionAttributes, 'scale'> {
  /** Default: 1 / sqrt(head_dim). */
  readonly scale?: number
  /** [batch, groups, capacity, head_dim], as the cache holds them. */
  readonly past: { readonly keys: Tensor; readonly values: Tensor }
  /** int32 [batch]: index of the last position, `total - 1` for every row. */
  readonly lastPositions: Tensor
  /** int32 [1]: positions of past and present together. */
  readonly total: Tensor
  /** float32 [batch, 1, length, total]: added to the scores. */
  readonly bias: Tensor
}

/**
 * @param queries [batch, length, heads * head_dim], rotated.
 * @param keys [batch, length, groups * head_dim], rotated.
 * @param values [batch, length, groups * head_dim]
 * @returns [batch, length, heads * head_dim]
 */
export function cachedAttention(
  queries: Tensor,
  keys: Tensor,
  values: Tensor,
  options: CachedAttentionOptions,
): Tensor {
  const { past, lastPositions, total, bias, heads, groups } = options
  const scale = options.scale ?? 1 / Math.sqrt(Number(dimAt(past.keys, 3)))
  const inputs = [queries, keys, values, past.keys, past.values, lastPositions, total, bias]
  return applyOne(cachedAttentionOperator, inputs, { heads, groups, scale })
}

export const attentionOperators = { CachedAttention: cachedAttentionOperator }

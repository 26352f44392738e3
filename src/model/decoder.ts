import type { Tensor } from '../graph/graph.ts'
import { addDims, type Dim, multiplyDims } from '../graph/shape.ts'
import { add, multiply, silu } from '../ops/elementwise.ts'
import { concat, reshape, slice, transpose } from '../ops/layout.ts'
import { matmul } from '../ops/matmul.ts'
import { rmsNorm, rotary, softmax } from '../ops/normalise.ts'
import { dimAt } from '../ops/operator.ts'
import type { DecoderConfig } from './config.ts'

/**
 * A decoder of the Llama family as graph code. Hidden states travel as rows [batch * length, hidden_size], so that every
 * linear layer is one matrix product.
 */
export interface Decoder {
  readonly config: DecoderConfig
  /** Applies a linear layer to rows. What stands behind it (plain, LoRA, int8 weights) is not the decoder's business. */
  readonly project: (rows: Tensor, layer: number, module: string) => Tensor
  /** A normalisation weight by its checkpoint name. */
  readonly norm: (name: string) => Tensor
  readonly rotary: { readonly cos: Tensor; readonly sin: Tensor }
  /** Where the layers work on hidden states in another basis: what leads rows into it, and back. */
  readonly basis?: { readonly enter: (rows: Tensor) => Tensor; readonly leave: (rows: Tensor) => Tensor }
}

/** Which positions a call of the decoder covers. */
export interface Positions {
  readonly batch: Dim
  readonly length: Dim
  /** int64 [batch, length]: place of each token for the rotary embedding. */
  readonly positions: Tensor
  /** float32 [batch, 1, 1, length, past + length]: 0 where a query may look, a large negative number where not. */
  readonly attentionBias: Tensor
}

/** Keys and values of one layer, [batch, key-value heads, positions, head_dim]. */
export interface KeyValues {
  readonly keys: Tensor
  readonly values: Tensor
}

/** One layer: attention and feed-forward, each behind a normalisation and around a residual connection. */
export function decoderLayer(
  decoder: Decoder,
  layer: number,
  hidden: Tensor,
  at: Positions,
  past?: KeyValues,
): { readonly hidden: Tensor; readonly keyValues: KeyValues } {
  const { config, project, norm } = decoder
  const prefix = `model.layers.${layer}`
  const attentionInput = rmsNorm(hidden, norm(`${prefix}.input_layernorm.weight`), config.rms_norm_eps)
  const { context, keyValues } = attention(decoder, layer, attentionInput, at, past)
  const afterAttention = add(hidden, project(context, layer, 'self_attn.o_proj'))
  const rows = rmsNorm(afterAttention, norm(`${prefix}.post_attention_layernorm.weight`), config.rms_norm_eps)
  const gated = multiply(silu(project(rows, layer, 'mlp.gate_proj')), project(rows, layer, 'mlp.up_proj'))
  return { hidden: add(afterAttention, project(gated, layer, 'mlp.down_proj')), keyValues }
}

/**
 * Grouped-query attention. The query heads that share a key-value head lie beside each other as further rows of one
 * product, so keys and values are never repeated. Past keys and values are read where they lie: only scores are joined.
 */
function attention(
  { config, project, rotary: tables }: Decoder,
  layer: number,
  rows: Tensor,
  { batch, length, positions, attentionBias }: Positions,
  past: KeyValues | undefined,
): { context: Tensor; keyValues: KeyValues } {
  const { num_attention_heads: heads, num_key_value_heads: groups, head_dim: width } = config
  const perGroup = heads / groups
  const queryRows = multiplyDims(perGroup, length)
  const byHead = (x: Tensor, count: number) => transpose(reshape(x, [batch, length, count, width]), [0, 2, 1, 3])
  const rotated = (x: Tensor, count: number) =>
    rotary(reshape(x, [batch, length, count * width]), positions, { heads: count, rotaryDim: 0, ...tables })

  const queries = byHead(rotated(project(rows, layer, 'self_attn.q_proj'), heads), heads)
  const keys = byHead(rotated(project(rows, layer, 'self_attn.k_proj'), groups), groups)
  const values = byHead(project(rows, layer, 'self_attn.v_proj'), groups)
  const grouped = reshape(queries, [batch, groups, queryRows, width])

  const score = (of: Tensor) => matmul(grouped, of, { transposeB: true, alpha: 1 / Math.sqrt(width) })
  const scores = past ? concat([score(past.keys), score(keys)], 3) : score(keys)
  const total = dimAt(scores, 3)
  const biased = add(reshape(scores, [batch, groups, perGroup, length, total]), attentionBias)
  const weights = reshape(softmax(biased), [batch, groups, queryRows, total])

  const context = past
    ? add(
        matmul(slice(weights, 3, 0, dimAt(past.keys, 2)), past.values),
        matmul(slice(weights, 3, dimAt(past.keys, 2), addDims(dimAt(past.keys, 2), length)), values),
      )
    : matmul(weights, values)
  const merged = transpose(reshape(context, [batch, heads, length, width]), [0, 2, 1, 3])
  return { context: reshape(merged, [multiplyDims(batch, length), heads * width]), keyValues: { keys, values } }
}

/** The normalisation after the last layer. */
export const finalNorm = ({ config, norm }: Decoder, hidden: Tensor): Tensor =>
  rmsNorm(hidden, norm('model.norm.weight'), config.rms_norm_eps)

/** Runs layers 0 to `layers` - 1 and the final normalisation, without a cache. */
export function decode(
  decoder: Decoder,
  hidden: Tensor,
  at: Positions,
  layers = decoder.config.num_hidden_layers,
): Tensor {
  const { enter, leave } = decoder.basis ?? { enter: same, leave: same }
  let state = enter(hidden)
  for (let layer = 0; layer < layers; layer++) state = decoderLayer(decoder, layer, state, at).hidden
  return finalNorm(decoder, leave(state))
}

const same = (rows: Tensor) => rows

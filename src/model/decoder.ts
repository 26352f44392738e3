import type { Tensor } from '../graph/graph.ts'
import { type Dim, multiplyDims } from '../graph/shape.ts'
import { add, multiply, silu } from '../ops/elementwise.ts'
import { reshape, transpose } from '../ops/layout.ts'
import { matmul } from '../ops/matmul.ts'
import { rmsNorm, rotary, softmax } from '../ops/normalise.ts'
import type { DecoderConfig } from './config.ts'

/**
 * A decoder of the Llama family as graph code. Hidden states travel as rows [batch * length, hidden_size], so that every
 * linear layer is one matrix product.
 */
export interface Decoder {
  readonly config: DecoderConfig
  /** Applies a linear layer to rows. What stands behind it (plain, LoRA, int8 weights) is not the decoder's business. */
  readonly project: (rows: Tensor, layer: number, module: string) => Tensor
  /** Linear layers on the same rows at once. Default: one after the other. */
  readonly projectTogether?: (rows: Tensor, layer: number, modules: readonly string[]) => readonly Tensor[]
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
  /** float32 [batch, 1, 1, length, length]: 0 where a query may look, a large negative number where not. */
  readonly attentionBias: Tensor
}

/** Attends with one layer's queries, keys and values, all rows of a linear layer; gives what its output projection reads. */
export type Attend = (queries: Tensor, keys: Tensor, values: Tensor) => Tensor

/** Linear layers that read the same rows, so that one product can serve them all. */
export const jointModules = {
  attention: ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'],
  feedForward: ['mlp.gate_proj', 'mlp.up_proj'],
} as const

/** One layer: attention and feed-forward, each behind a normalisation and around a residual connection. */
export function decoderLayer(decoder: Decoder, layer: number, hidden: Tensor, attend: Attend): Tensor {
  const { config, project, norm } = decoder
  const together =
    decoder.projectTogether ??
    ((rows: Tensor, _layer: number, modules: readonly string[]) =>
      modules.map((module) => project(rows, layer, module)))
  const prefix = `model.layers.${layer}`
  const attentionInput = rmsNorm(hidden, norm(`${prefix}.input_layernorm.weight`), config.rms_norm_eps)
  const [queries, keys, values] = together(attentionInput, layer, jointModules.attention) as [Tensor, Tensor, Tensor]
  const afterAttention = add(hidden, project(attend(queries, keys, values), layer, 'self_attn.o_proj'))
  const rows = rmsNorm(afterAttention, norm(`${prefix}.post_attention_layernorm.weight`), config.rms_norm_eps)
  const [gate, up] = together(rows, layer, jointModules.feedForward) as [Tensor, Tensor]
  return add(afterAttention, project(multiply(silu(gate), up), layer, 'mlp.down_proj'))
}

/** Rows of queries or keys [batch * length, heads * head_dim], rotated by their positions: [batch, length, heads * head_dim]. */
export function rotated(
  decoder: Decoder,
  rows: Tensor,
  heads: number,
  { batch, length, positions }: Positions,
): Tensor {
  const shape = [batch, length, heads * decoder.config.head_dim]
  return rotary(reshape(rows, shape), positions, { heads, rotaryDim: 0, ...decoder.rotary })
}

/**
 * Grouped-query attention among the positions of one call. The query heads that share a key-value head lie beside each
 * other as further rows of one product, so keys and values are never repeated.
 */
export function attention(decoder: Decoder, at: Positions): Attend {
  const { batch, length, attentionBias } = at
  const { num_attention_heads: heads, num_key_value_heads: groups, head_dim: width } = decoder.config
  const perGroup = heads / groups
  const queryRows = multiplyDims(perGroup, length)
  const byHead = (x: Tensor, count: number) => transpose(reshape(x, [batch, length, count, width]), [0, 2, 1, 3])
  return (queryRowsIn, keyRows, valueRows) => {
    const queries = byHead(rotated(decoder, queryRowsIn, heads, at), heads)
    const keys = byHead(rotated(decoder, keyRows, groups, at), groups)
    const values = byHead(valueRows, groups)
    const grouped = reshape(queries, [batch, groups, queryRows, width])
    const scores = matmul(grouped, keys, { transposeB: true, alpha: 1 / Math.sqrt(width) })
    const biased = add(reshape(scores, [batch, groups, perGroup, length, length]), attentionBias)
    const weights = reshape(softmax(biased), [batch, groups, queryRows, length])
    const context = reshape(matmul(weights, values), [batch, heads, length, width])
    return reshape(transpose(context, [0, 2, 1, 3]), [multiplyDims(batch, length), heads * width])
  }
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
  const attend = attention(decoder, at)
  let state = enter(hidden)
  for (let layer = 0; layer < layers; layer++) state = decoderLayer(decoder, layer, state, attend)
  return finalNorm(decoder, leave(state))
}

const same = (rows: Tensor) => rows

import type { Tensor } from '../graph/graph.ts'
import { type Dim, multiplyDims } from '../graph/shape.ts'
import { abs, add, less, multiply, scalar, silu, subtract, where } from '../ops/elementwise.ts'
import { reshape, split, transpose } from '../ops/layout.ts'
import { matmul } from '../ops/matmul.ts'
import { rmsNorm, rotary, softmax } from '../ops/normalise.ts'
import { dimAt } from '../ops/operator.ts'
import { type DecoderConfig, hasHeadNorms, inputModules, inputWidths } from './config.ts'
import { type Rotary, rotaryDim } from './rotary.ts'

/** Added to the score of a pair of positions that may not see each other. */
const HIDDEN = -1e9

/**
 * A decoder of the Llama family as graph code. Hidden states travel as rows [batch * length, hidden_size], so that every
 * linear layer is one matrix product.
 */
export interface Decoder {
  readonly config: DecoderConfig
  /**
   * Applies a linear layer to rows, without its bias. What stands behind it (plain, LoRA, int8 weights) is not the decoder's
   * business.
   */
  readonly project: (rows: Tensor, layer: number, module: string) => Tensor
  /** Linear layers on the same rows at once. Default: one after the other. */
  readonly projectTogether?: (rows: Tensor, layer: number, modules: readonly string[]) => readonly Tensor[]
  /** A normalisation weight by its checkpoint name. */
  readonly norm: (name: string) => Tensor
  /** The bias of a linear layer; undefined where it has none. */
  readonly bias: (layer: number, module: string) => Tensor | undefined
  /**
   * int64 scalar: positions that a token of this layer sees, its own included. Undefined where that is all of them, or more
   * than the graph's sequences have.
   */
  readonly window: (layer: number) => Tensor | undefined
  readonly rotary: Rotary
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

/**
 * Attends with the queries, keys and values of layer `layer`, all rows of a linear layer; gives what its output projection
 * reads.
 */
export type Attend = (queries: Tensor, keys: Tensor, values: Tensor, layer: number) => Tensor

/** One layer: attention and feed-forward, each behind a normalisation and around a residual connection. */
export function decoderLayer(decoder: Decoder, layer: number, hidden: Tensor, attend: Attend): Tensor {
  const { config, norm } = decoder
  const prefix = `model.layers.${layer}`
  const biased = (rows: Tensor, module: string) => {
    const bias = decoder.bias(layer, module)
    return bias ? add(rows, bias) : rows
  }
  const project = (rows: Tensor, module: string) => biased(decoder.project(rows, layer, module), module)
  /** What the linear layers give that read the same rows, cut apart where a single one holds it all. */
  const read = (rows: Tensor, part: 'attention' | 'feedForward') => {
    const modules = inputModules(config)[part]
    const results = decoder.projectTogether
      ? decoder.projectTogether(rows, layer, modules)
      : modules.map((module) => decoder.project(rows, layer, module))
    const whole = results.map((result, index) => biased(result, modules[index] ?? ''))
    const [first] = whole
    return whole.length === 1 && first ? split(first, -1, inputWidths(config)[part]) : whole
  }
  const headNorm = (rows: Tensor, name: 'q_norm' | 'k_norm') =>
    hasHeadNorms(config) ? byHeadNorm(rows, norm(`${prefix}.self_attn.${name}.weight`), config.rms_norm_eps) : rows

  const attentionInput = rmsNorm(hidden, norm(`${prefix}.input_layernorm.weight`), config.rms_norm_eps)
  const [queries, keys, values] = read(attentionInput, 'attention') as [Tensor, Tensor, Tensor]
  const context = attend(headNorm(queries, 'q_norm'), headNorm(keys, 'k_norm'), values, layer)
  const afterAttention = add(hidden, project(context, 'self_attn.o_proj'))
  const rows = rmsNorm(afterAttention, norm(`${prefix}.post_attention_layernorm.weight`), config.rms_norm_eps)
  const [gate, up] = read(rows, 'feedForward') as [Tensor, Tensor]
  return add(afterAttention, project(multiply(silu(gate), up), 'mlp.down_proj'))
}

/** Normalises every head of rows [rows, heads * head_dim] by itself, with one weight [head_dim] for all. */
function byHeadNorm(rows: Tensor, weight: Tensor, epsilon: number): Tensor {
  return reshape(rmsNorm(reshape(rows, [-1, dimAt(weight, 0)]), weight, epsilon), rows.shape)
}

/** Rows of queries or keys [batch * length, heads * head_dim], rotated by their positions: [batch, length, heads * head_dim]. */
export function rotated(
  decoder: Decoder,
  rows: Tensor,
  heads: number,
  { batch, length, positions }: Positions,
): Tensor {
  const { config, rotary: tables } = decoder
  const turning = rotaryDim(config)
  const options = { heads, rotaryDim: turning === config.head_dim ? 0 : turning, cos: tables.cos, sin: tables.sin }
  return rotary(
    reshape(rows, [batch, length, heads * config.head_dim]),
    tables.rows ? tables.rows(positions) : positions,
    options,
  )
}

/**
 * Grouped-query attention among the positions of one call. The query heads that share a key-value head lie beside each
 * other as further rows of one product, so keys and values are never repeated.
 */
export function attention(decoder: Decoder, at: Positions): Attend {
  const { batch, length } = at
  const { num_attention_heads: heads, num_key_value_heads: groups, head_dim: width } = decoder.config
  const perGroup = heads / groups
  const queryRows = multiplyDims(perGroup, length)
  const byHead = (x: Tensor, count: number) => transpose(reshape(x, [batch, length, count, width]), [0, 2, 1, 3])
  const biasOf = slidingBias(decoder, at)
  return (queryRowsIn, keyRows, valueRows, layer) => {
    const queries = byHead(rotated(decoder, queryRowsIn, heads, at), heads)
    const keys = byHead(rotated(decoder, keyRows, groups, at), groups)
    const values = byHead(valueRows, groups)
    const grouped = reshape(queries, [batch, groups, queryRows, width])
    const scores = matmul(grouped, keys, { transposeB: true, alpha: 1 / Math.sqrt(width) })
    const biased = add(reshape(scores, [batch, groups, perGroup, length, length]), biasOf(layer))
    const weights = reshape(softmax(biased), [batch, groups, queryRows, length])
    const context = reshape(matmul(weights, values), [batch, heads, length, width])
    return reshape(transpose(context, [0, 2, 1, 3]), [multiplyDims(batch, length), heads * width])
  }
}

/** What is added to the scores of a layer: the call's own bias, and where the layer has a window, that as well. */
function slidingBias(
  decoder: Decoder,
  { batch, length, positions, attentionBias }: Positions,
): (layer: number) => Tensor {
  const known = new Map<Tensor, Tensor>()
  return (layer) => {
    const window = decoder.window(layer)
    if (!window) return attentionBias
    const found = known.get(window)
    if (found) return found
    // by place in the text, not in the row: prompts that share a beginning lie behind each other
    const [queries, keys] = [reshape(positions, [batch, 1, 1, length, 1]), reshape(positions, [batch, 1, 1, 1, length])]
    const isNear = less(abs(subtract(queries, keys)), window)
    const bias = where(isNear, attentionBias, scalar(attentionBias, HIDDEN))
    known.set(window, bias)
    return bias
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

import { z } from 'zod'
import { ClaraError } from '../errors.ts'

const ropeScaling = z.looseObject({
  rope_type: z.string().optional(),
  type: z.string().optional(),
  factor: z.number().positive().optional(),
  low_freq_factor: z.number().positive().optional(),
  high_freq_factor: z.number().positive().optional(),
  original_max_position_embeddings: z.number().int().positive().optional(),
})

/** The part of a Hugging Face config.json that shapes a decoder, under its own names. Keys we do not use are kept out. */
const schema = z.object({
  model_type: z.string(),
  hidden_size: z.number().int().positive(),
  intermediate_size: z.number().int().positive(),
  num_hidden_layers: z.number().int().positive(),
  num_attention_heads: z.number().int().positive(),
  num_key_value_heads: z.number().int().positive().optional(),
  head_dim: z.number().int().positive().nullish(),
  rms_norm_eps: z.number().positive(),
  rope_theta: z.number().positive().default(10_000),
  rope_scaling: ropeScaling.nullish(),
  vocab_size: z.number().int().positive(),
  max_position_embeddings: z.number().int().positive(),
  tie_word_embeddings: z.boolean().default(false),
  sliding_window: z.number().int().positive().nullish(),
  hidden_act: z.literal('silu').default('silu'),
})

/** A decoder's shape, every field decided. */
export interface DecoderConfig {
  readonly model_type: 'llama' | 'mistral'
  readonly hidden_size: number
  readonly intermediate_size: number
  readonly num_hidden_layers: number
  readonly num_attention_heads: number
  readonly num_key_value_heads: number
  readonly head_dim: number
  readonly rms_norm_eps: number
  readonly rope_theta: number
  readonly rope_scaling: z.infer<typeof ropeScaling> | undefined
  readonly vocab_size: number
  readonly max_position_embeddings: number
  readonly tie_word_embeddings: boolean
  /** Positions a token may look back; undefined: all. */
  readonly sliding_window: number | undefined
}

const families = ['llama', 'mistral'] as const

/**
 * Reads a checkpoint's own configuration.
 * @throws ClaraError for a model family we do not know, or a field that is missing or wrong, naming it.
 */
export function parseDecoderConfig(raw: Readonly<Record<string, unknown>>): DecoderConfig {
  const family = families.find((name) => name === raw['model_type'])
  if (!family) {
    throw new ClaraError(`The model family '${String(raw['model_type'])}' is unknown.`, {
      expected: `model_type to be one of ${families.join(', ')}`,
    })
  }
  const parsed = schema.safeParse(raw)
  if (!parsed.success) {
    const [issue] = parsed.error.issues
    throw new ClaraError(`The model configuration is invalid at '${issue?.path.join('.')}': ${issue?.message}.`)
  }
  const config = parsed.data
  const heads = config.num_attention_heads
  const keyValueHeads = config.num_key_value_heads ?? heads
  const headDim = config.head_dim ?? config.hidden_size / heads
  // a rotary embedding turns pairs of dimensions
  if (heads % keyValueHeads !== 0 || headDim % 2 !== 0) {
    throw new ClaraError(
      `The model configuration does not divide: hidden_size ${config.hidden_size}, ${heads} heads, ${keyValueHeads} key-value heads, head_dim ${headDim}.`,
    )
  }
  return {
    model_type: family,
    hidden_size: config.hidden_size,
    intermediate_size: config.intermediate_size,
    num_hidden_layers: config.num_hidden_layers,
    num_attention_heads: heads,
    num_key_value_heads: keyValueHeads,
    head_dim: headDim,
    rms_norm_eps: config.rms_norm_eps,
    rope_theta: config.rope_theta,
    rope_scaling: config.rope_scaling ?? undefined,
    vocab_size: config.vocab_size,
    max_position_embeddings: config.max_position_embeddings,
    tie_word_embeddings: config.tie_word_embeddings,
    sliding_window: config.sliding_window ?? undefined,
  }
}

/** The linear layers of one decoder layer, by their checkpoint names, with [out, in] sizes. */
export function linearModules(config: DecoderConfig): ReadonlyMap<string, readonly [out: number, input: number]> {
  const hidden = config.hidden_size
  const queries = config.num_attention_heads * config.head_dim
  const keys = config.num_key_value_heads * config.head_dim
  return new Map([
    ['self_attn.q_proj', [queries, hidden]],
    ['self_attn.k_proj', [keys, hidden]],
    ['self_attn.v_proj', [keys, hidden]],
    ['self_attn.o_proj', [hidden, queries]],
    ['mlp.gate_proj', [config.intermediate_size, hidden]],
    ['mlp.up_proj', [config.intermediate_size, hidden]],
    ['mlp.down_proj', [hidden, config.intermediate_size]],
  ])
}

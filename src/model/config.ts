import { z } from 'zod'
import { ClaraError } from '../errors.ts'
import { decideRopeScaling, type RopeScaling, ropeParameters } from './rope-scaling.ts'

const count = z.number().int().positive()

/** The part of a Hugging Face config.json that shapes a decoder, under its own names. Keys we do not use are kept out. */
const schema = z.object({
  hidden_size: count,
  intermediate_size: count,
  num_hidden_layers: count,
  num_attention_heads: count,
  num_key_value_heads: count.nullish(),
  head_dim: count.nullish(),
  rms_norm_eps: z.number().positive(),
  rope_theta: z.number().positive().nullish(),
  rope_scaling: ropeParameters.nullish(),
  rope_parameters: ropeParameters.nullish(),
  partial_rotary_factor: z.number().positive().max(1).nullish(),
  vocab_size: count,
  max_position_embeddings: count,
  original_max_position_embeddings: count.nullish(),
  tie_word_embeddings: z.boolean().default(false),
  attention_bias: z.boolean().nullish(),
  mlp_bias: z.boolean().nullish(),
  sliding_window: count.nullish(),
  use_sliding_window: z.boolean().nullish(),
  max_window_layers: z.number().int().min(0).nullish(),
  layer_types: z.array(z.enum(['full_attention', 'sliding_attention'])).nullish(),
  hidden_act: z.literal('silu').default('silu'),
})

type RawConfig = z.infer<typeof schema>

/** What sets one family apart from the others. Defaults are those of transformers, for keys that a config.json leaves out. */
interface Family {
  /** Queries, keys and values come from one linear layer, and gate and up projection too. */
  readonly fused?: true
  /** Queries and keys are normalised, head by head, before they rotate. */
  readonly headNorms?: true
  /** Linear layers of the attention with a bias: these, or by `attention_bias` those of query, key, value and output. */
  readonly attentionBias?: 'queries, keys, values' | 'by attention_bias'
  readonly mlpBias?: 'by mlp_bias'
  /** Layers with a sliding window: all, if there is a window, or those that the configuration says. */
  readonly sliding?: 'all layers' | 'by layer_types'
  readonly head_dim?: number
  readonly sliding_window?: number
  readonly original_max_position_embeddings?: number
}

const families = {
  llama: { attentionBias: 'by attention_bias', mlpBias: 'by mlp_bias' },
  mistral: { sliding: 'all layers', sliding_window: 4096 },
  qwen2: { attentionBias: 'queries, keys, values', sliding: 'by layer_types', sliding_window: 4096 },
  qwen3: {
    headNorms: true,
    attentionBias: 'by attention_bias',
    sliding: 'by layer_types',
    sliding_window: 4096,
    head_dim: 128,
  },
  phi3: { fused: true, sliding: 'all layers', original_max_position_embeddings: 4096 },
} as const satisfies Readonly<Record<string, Family>>

type ModelType = keyof typeof families
const familyOf = ({ model_type }: Pick<DecoderConfig, 'model_type'>): Family => families[model_type]

/** A decoder's shape, every field decided. */
export interface DecoderConfig {
  readonly model_type: ModelType
  readonly hidden_size: number
  readonly intermediate_size: number
  readonly num_hidden_layers: number
  readonly num_attention_heads: number
  readonly num_key_value_heads: number
  readonly head_dim: number
  readonly rms_norm_eps: number
  readonly rope_theta: number
  readonly rope_scaling: RopeScaling | undefined
  /** Share of each head's dimensions that rotate, from the first. */
  readonly partial_rotary_factor: number
  readonly vocab_size: number
  readonly max_position_embeddings: number
  readonly tie_word_embeddings: boolean
  /** Whether query, key, value and output projection have a bias. Qwen 2 has one on the first three, whatever this says. */
  readonly attention_bias: boolean
  readonly mlp_bias: boolean
  /** Positions that a token of a sliding layer sees, its own included; undefined: no layer slides. */
  readonly sliding_window: number | undefined
  /** One entry a layer. */
  readonly layer_types: readonly ('full_attention' | 'sliding_attention')[]
}

/**
 * Reads a checkpoint's own configuration.
 * @throws ClaraError for a model family we do not know, or a field that is missing or wrong, naming it.
 */
export function parseDecoderConfig(raw: Readonly<Record<string, unknown>>): DecoderConfig {
  const names = Object.keys(families) as ModelType[]
  const model_type = names.find((name) => name === raw['model_type'])
  if (!model_type) {
    throw new ClaraError(`The model family '${String(raw['model_type'])}' is unknown.`, {
      expected: `model_type to be one of ${names.join(', ')}`,
    })
  }
  const parsed = schema.safeParse(raw)
  if (!parsed.success) {
    const [issue] = parsed.error.issues
    throw new ClaraError(`The model configuration is invalid at '${issue?.path.join('.')}': ${issue?.message}.`)
  }
  const config = parsed.data
  const family: Family = families[model_type]
  const heads = config.num_attention_heads
  const keyValueHeads = config.num_key_value_heads ?? heads
  const headDim = config.head_dim ?? family.head_dim ?? config.hidden_size / heads
  const rope = config.rope_parameters ?? config.rope_scaling ?? {}
  const partial = rope.partial_rotary_factor ?? config.partial_rotary_factor ?? 1
  const rotaryDim = Math.trunc(headDim * partial)
  // a rotary embedding turns pairs of dimensions
  if (heads % keyValueHeads !== 0 || !Number.isInteger(headDim) || rotaryDim < 2 || rotaryDim % 2 !== 0) {
    throw new ClaraError(
      `The model configuration does not divide: hidden_size ${config.hidden_size}, ${heads} heads, ${keyValueHeads} key-value heads, head_dim ${headDim}, ${rotaryDim} rotary dimensions.`,
    )
  }
  return {
    model_type,
    hidden_size: config.hidden_size,
    intermediate_size: config.intermediate_size,
    num_hidden_layers: config.num_hidden_layers,
    num_attention_heads: heads,
    num_key_value_heads: keyValueHeads,
    head_dim: headDim,
    rms_norm_eps: config.rms_norm_eps,
    rope_theta: rope.rope_theta ?? config.rope_theta ?? 10_000,
    rope_scaling: decideRopeScaling(rope, {
      model_type,
      max_position_embeddings: config.max_position_embeddings,
      original_max_position_embeddings:
        config.original_max_position_embeddings ?? family.original_max_position_embeddings,
      rotaryDim,
      newer: Boolean(config.rope_parameters),
    }),
    partial_rotary_factor: partial,
    vocab_size: config.vocab_size,
    max_position_embeddings: config.max_position_embeddings,
    tie_word_embeddings: config.tie_word_embeddings,
    attention_bias: family.attentionBias === 'by attention_bias' && (config.attention_bias ?? false),
    mlp_bias: family.mlpBias === 'by mlp_bias' && (config.mlp_bias ?? false),
    ...slidingLayers(config, family),
  }
}

function slidingLayers(config: RawConfig, family: Family): Pick<DecoderConfig, 'sliding_window' | 'layer_types'> {
  const every = (type: DecoderConfig['layer_types'][number]) =>
    new Array<typeof type>(config.num_hidden_layers).fill(type)
  // null says that there is no window; only a key that is missing has a default
  const stated = config.sliding_window === undefined ? family.sliding_window : (config.sliding_window ?? undefined)
  const window = family.sliding === 'by layer_types' && !config.use_sliding_window ? undefined : stated
  const types =
    family.sliding === 'all layers'
      ? every(window === undefined ? 'full_attention' : 'sliding_attention')
      : family.sliding === 'by layer_types'
        ? (config.layer_types ??
          every('full_attention').map((full, layer) =>
            window !== undefined && layer >= (config.max_window_layers ?? 28) ? 'sliding_attention' : full,
          ))
        : every('full_attention')
  if (types.length !== config.num_hidden_layers) {
    throw new ClaraError(`The model configuration is invalid at 'layer_types'.`, {
      expected: `an entry for each of ${config.num_hidden_layers} layers`,
      received: String(types.length),
    })
  }
  const slides = types.includes('sliding_attention')
  if (slides && window === undefined) {
    throw new ClaraError(`The model configuration has layers of sliding attention and no window for them.`, {
      expected: 'sliding_window, and use_sliding_window to be true',
    })
  }
  return { sliding_window: slides ? window : undefined, layer_types: types }
}

/** Positions that a token of this layer sees, its own included; undefined: all. */
export const slidingWindow = (config: DecoderConfig, layer: number): number | undefined =>
  config.layer_types[layer] === 'sliding_attention' ? config.sliding_window : undefined

/**
 * The linear layers that read what enters the attention and the feed-forward, in the order of their results: one each, or
 * a single one whose result holds all.
 */
export const inputModules = (config: DecoderConfig) =>
  familyOf(config).fused
    ? { attention: ['self_attn.qkv_proj'], feedForward: ['mlp.gate_up_proj'] }
    : {
        attention: ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj'],
        feedForward: ['mlp.gate_proj', 'mlp.up_proj'],
      }

/** Widths of queries, keys and values, and of gate and up projection. */
export function inputWidths({ num_attention_heads, num_key_value_heads, head_dim, intermediate_size }: DecoderConfig) {
  const keys = num_key_value_heads * head_dim
  return {
    attention: [num_attention_heads * head_dim, keys, keys],
    feedForward: [intermediate_size, intermediate_size],
  }
}

/** The linear layers of one decoder layer, by their checkpoint names, with [out, in] sizes. */
export function linearModules(config: DecoderConfig): ReadonlyMap<string, readonly [out: number, input: number]> {
  const { hidden_size: hidden, intermediate_size: inner } = config
  const [modules, widths] = [inputModules(config), inputWidths(config)]
  const readers = (part: 'attention' | 'feedForward') => {
    const names = modules[part]
    const outs = names.length === 1 ? [widths[part].reduce((sum, width) => sum + width, 0)] : widths[part]
    return names.map((name, index): [string, [number, number]] => [name, [outs[index] ?? 0, hidden]])
  }
  return new Map([
    ...readers('attention'),
    ['self_attn.o_proj', [hidden, widths.attention[0] ?? 0]],
    ...readers('feedForward'),
    ['mlp.down_proj', [hidden, inner]],
  ])
}

/** Checkpoint name of a linear layer's weight. */
export const linearWeightName = (layer: number, module: string): string => `model.layers.${layer}.${module}.weight`

/** Checkpoint names of the weights of all linear layers. */
export function linearWeightNames(config: DecoderConfig): string[] {
  const modules = [...linearModules(config).keys()]
  return Array.from({ length: config.num_hidden_layers }, (_, layer) =>
    modules.map((module) => linearWeightName(layer, module)),
  ).flat()
}

/** Elements of the widest row that a linear layer reads. */
export const widestInput = (config: DecoderConfig): number =>
  Math.max(...[...linearModules(config).values()].map(([, input]) => input))

/** Whether queries and keys are normalised head by head. */
export const hasHeadNorms = (config: DecoderConfig): boolean => familyOf(config).headNorms === true

/** Whether a linear layer has a bias. */
function hasBias(config: DecoderConfig, module: string): boolean {
  if (module.startsWith('mlp.')) return config.mlp_bias
  const onInputs = familyOf(config).attentionBias === 'queries, keys, values'
  return onInputs ? module !== 'self_attn.o_proj' : config.attention_bias
}

/** All parameters of one decoder layer with their shapes, by their names behind `model.layers.N.`. */
export function layerParameters(config: DecoderConfig): ReadonlyMap<string, readonly number[]> {
  const parameters = new Map<string, readonly number[]>()
  for (const [module, dims] of linearModules(config)) {
    parameters.set(`${module}.weight`, dims)
    if (hasBias(config, module)) parameters.set(`${module}.bias`, [dims[0]])
  }
  if (hasHeadNorms(config)) {
    parameters.set('self_attn.q_norm.weight', [config.head_dim]).set('self_attn.k_norm.weight', [config.head_dim])
  }
  return parameters
    .set('input_layernorm.weight', [config.hidden_size])
    .set('post_attention_layernorm.weight', [config.hidden_size])
}

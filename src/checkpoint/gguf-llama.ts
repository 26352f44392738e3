/**
 * What a GGUF of the `llama` architecture (Llama, Mistral, SmolLM2 and others alike) is called in Hugging Face's terms: parameter names,
 * configuration, and the order of the query and key rows.
 */
import { ClaraError } from '../errors.ts'
import type { HostTensor } from '../graph/dtype.ts'
import type { GgufFile } from './gguf.ts'

/** Parameters outside the layers. */
const outerNames: Readonly<Record<string, string>> = {
  'token_embd.weight': 'model.embed_tokens.weight',
  'output_norm.weight': 'model.norm.weight',
  'output.weight': 'lm_head.weight',
}

/** Modules of a layer, behind `blk.N.` and `model.layers.N.`. */
const layerNames: Readonly<Record<string, string>> = {
  attn_norm: 'input_layernorm',
  attn_q: 'self_attn.q_proj',
  attn_k: 'self_attn.k_proj',
  attn_v: 'self_attn.v_proj',
  attn_output: 'self_attn.o_proj',
  ffn_norm: 'post_attention_layernorm',
  ffn_gate: 'mlp.gate_proj',
  ffn_up: 'mlp.up_proj',
  ffn_down: 'mlp.down_proj',
}

/** Computed from the configuration when the model runs; no parameters. */
const derivedTensor = /^rope_freqs\.weight$|\.rotary_emb\.inv_freq$|\.attn_rot_embd$/

/**
 * The Hugging Face name of a tensor; undefined for one that is no parameter.
 *
 * @throws ClaraError when the tensor has no place in this architecture: leaving it out would change the model.
 */
export function llamaParameterName(file: GgufFile, name: string): string | undefined {
  if (Object.hasOwn(outerNames, name)) return outerNames[name]
  const [, layer, module = '', kind] = /^blk\.(\d+)\.(\w+)\.(weight|bias)$/.exec(name) ?? []
  if (layer !== undefined && Object.hasOwn(layerNames, module))
    return `model.layers.${layer}.${layerNames[module]}.${kind}`
  if (derivedTensor.test(name)) return undefined
  throw new ClaraError(`"${file.path}" holds the tensor "${name}", which a plain llama model does not have.`, {
    hint: 'Mixtures of experts and other variants are not supported.',
  })
}

/**
 * Puts the rows of a query or key projection back in Hugging Face's order. GGUF stores each head's rows interleaved (0, d/2, 1, d/2 + 1,
 * …) because ggml rotates neighbouring pairs, where Hugging Face rotates the two halves of a head.
 *
 * @param heads Number of heads that the rows divide into.
 */
export function uninterleaveHeads(tensor: HostTensor, heads: number): HostTensor {
  const source = tensor.data as Float32Array
  const rows = tensor.dims[0] ?? 0
  const width = source.length / rows
  const headRows = rows / heads
  const half = headRows / 2
  const data = new Float32Array(source.length)
  for (let head = 0; head < heads; head++) {
    for (let row = 0; row < headRows; row++) {
      const from = head * headRows + (row < half ? 2 * row : 2 * (row - half) + 1)
      data.set(source.subarray(from * width, (from + 1) * width), (head * headRows + row) * width)
    }
  }
  return { dtype: 'float32', dims: tensor.dims, data }
}

/**
 * The Hugging Face configuration (`config.json` names) that a GGUF's metadata stands for.
 *
 * @throws ClaraError when a needed key is missing or cannot be true.
 */
export async function llamaConfig(file: GgufFile): Promise<Readonly<Record<string, unknown>>> {
  const integer = (key: string) => positiveInteger(file, `llama.${key}`)
  const hidden = integer('embedding_length') ?? missing(file, 'llama.embedding_length')
  const heads = integer('attention.head_count') ?? missing(file, 'llama.attention.head_count')
  const keyValueHeads = integer('attention.head_count_kv') ?? heads
  const headDim = integer('attention.key_length') ?? hidden / heads
  const vocabulary = file.tensors.get('token_embd.weight')?.dims[0] ?? missing(file, 'token_embd.weight')
  if (!Number.isInteger(headDim) || headDim % 2 !== 0 || heads % keyValueHeads !== 0) {
    throw new ClaraError(`"${file.path}" describes an impossible attention.`, {
      expected: 'an even head dimension and heads that divide evenly among the key-value heads',
      received: `hidden size ${hidden}, ${heads} heads, ${keyValueHeads} key-value heads, head dimension ${headDim}`,
    })
  }
  const rotated = integer('rope.dimension_count') ?? headDim
  if (rotated !== headDim) {
    throw new ClaraError(`"${file.path}" rotates only a part of each head, which a llama model does not.`, {
      expected: `${headDim}`,
      received: `${rotated}`,
    })
  }
  const scaling = await ropeScaling(file)
  return {
    model_type: 'llama',
    architectures: ['LlamaForCausalLM'],
    hidden_size: hidden,
    num_attention_heads: heads,
    num_key_value_heads: keyValueHeads,
    head_dim: headDim,
    intermediate_size: integer('feed_forward_length') ?? missing(file, 'llama.feed_forward_length'),
    num_hidden_layers: integer('block_count') ?? missing(file, 'llama.block_count'),
    rms_norm_eps:
      decimal(file, 'llama.attention.layer_norm_rms_epsilon') ??
      missing(file, 'llama.attention.layer_norm_rms_epsilon'),
    rope_theta: decimal(file, 'llama.rope.freq_base') ?? 10000,
    ...(scaling === undefined ? {} : { rope_scaling: scaling }),
    hidden_act: 'silu',
    vocab_size: vocabulary,
    max_position_embeddings: integer('context_length') ?? missing(file, 'llama.context_length'),
    tie_word_embeddings: !file.tensors.has('output.weight'),
    ...tokenIds(file),
  }
}

function tokenIds(file: GgufFile): Record<string, number> {
  const ids: Record<string, number> = {}
  for (const [name, key] of [
    ['bos_token_id', 'bos'],
    ['eos_token_id', 'eos'],
    ['pad_token_id', 'padding'],
  ] as const) {
    const id = file.metadata.get(`tokenizer.ggml.${key}_token_id`)
    if (typeof id === 'number' && Number.isInteger(id) && id >= 0) ids[name] = id
  }
  return ids
}

/** Llama 3's scaling is stored as one factor per frequency; `linear` as a number. */
async function ropeScaling(file: GgufFile): Promise<Record<string, unknown> | undefined> {
  const type = file.metadata.get('llama.rope.scaling.type')
  if (typeof type === 'string' && type !== 'none') {
    if (type !== 'linear') {
      throw new ClaraError(`"${file.path}" scales its rotary embedding in a way that cannot be read.`, {
        expected: 'none or linear',
        received: type,
      })
    }
    return { rope_type: 'linear', factor: decimal(file, 'llama.rope.scaling.factor') ?? 1 }
  }
  if (!file.tensors.has('rope_freqs.weight')) return undefined
  const factors = (await file.read('rope_freqs.weight')).data as Float32Array
  return llama3Scaling(file, factors)
}

/**
 * Recovers the four parameters of Llama 3's scaling from its factors: the published models differ in `factor` alone, and the factors
 * computed from it must be the stored ones.
 */
function llama3Scaling(file: GgufFile, factors: Float32Array): Record<string, unknown> {
  const theta = decimal(file, 'llama.rope.freq_base') ?? 10000
  const factor = factors.reduce((a, b) => Math.max(a, b), 1)
  const original = positiveInteger(file, 'llama.rope.scaling.original_context_length') ?? 8192
  const [lowFactor, highFactor] = [1, 4]
  for (const [i, stored] of factors.entries()) {
    const wavelength = 2 * Math.PI * theta ** (i / factors.length)
    const smooth = Math.min(1, Math.max(0, (original / wavelength - lowFactor) / (highFactor - lowFactor)))
    const computed = 1 / ((1 - smooth) / factor + smooth)
    if (!(Math.abs(stored - computed) <= 1e-3 * computed)) {
      throw new ClaraError(`"${file.path}" scales its rotary embedding with factors of an unknown rule.`, {
        expected: `${computed} at frequency ${i}, as Llama 3 has it`,
        received: `${stored}`,
      })
    }
  }
  return {
    rope_type: 'llama3',
    factor,
    low_freq_factor: lowFactor,
    high_freq_factor: highFactor,
    original_max_position_embeddings: original,
  }
}

function positiveInteger(file: GgufFile, key: string): number | undefined {
  const value = file.metadata.get(key)
  if (value === undefined) return undefined
  // Some converters write one number per layer; the same everywhere is one number.
  const single: unknown = Array.isArray(value) && value.every((item) => item === value[0]) ? value[0] : value
  if (typeof single === 'number' && Number.isInteger(single) && single > 0 && single < 2 ** 31) return single
  throw new ClaraError(`"${file.path}" has an impossible value of "${key}".`, {
    expected: 'a positive integer',
    received: String(value).slice(0, 80),
  })
}

/** A float32 of the metadata as the shortest decimal that rounds to it: 0.00001, not 0.000009999999747. */
function decimal(file: GgufFile, key: string): number | undefined {
  const value = file.metadata.get(key)
  if (value === undefined) return undefined
  if (typeof value !== 'number' || !Number.isFinite(value) || value <= 0) {
    throw new ClaraError(`"${file.path}" has an impossible value of "${key}".`, {
      expected: 'a positive number',
      received: String(value).slice(0, 80),
    })
  }
  for (let digits = 1; digits < 10; digits++) {
    const rounded = Number(value.toPrecision(digits))
    if (Math.fround(rounded) === Math.fround(value)) return rounded
  }
  return value
}

function missing(file: GgufFile, key: string): never {
  throw new ClaraError(`"${file.path}" lacks "${key}".`, { hint: 'Convert the model again with a current converter.' })
}

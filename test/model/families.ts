import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { writeSafetensors } from '../../src/checkpoint/safetensors.ts'
import { openWeights } from '../../src/checkpoint/weights.ts'
import { type BaseModel, type LoadBaseOptions, loadBase } from '../../src/clara/base.ts'
import { createRandom } from '../../src/data/random.ts'
import { float32, type HostTensor } from '../../src/graph/dtype.ts'

type RawConfig = Readonly<Record<string, unknown>>

const common = {
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  rms_norm_eps: 1e-5,
  rope_theta: 10_000,
  max_position_embeddings: 512,
  vocab_size: 1,
}

/** Configurations with what the folders of numbers from PyTorch lack. */
export const families = {
  'llama with every bias': { ...common, model_type: 'llama', attention_bias: true, mlp_bias: true },
  'mistral with a window': { ...common, model_type: 'mistral', sliding_window: 4 },
  'qwen2 with a window in its last layers': {
    ...common,
    model_type: 'qwen2',
    tie_word_embeddings: true,
    use_sliding_window: true,
    sliding_window: 4,
    max_window_layers: 1,
  },
  'qwen3 with biases, wide heads and a window in its middle layer': {
    ...common,
    model_type: 'qwen3',
    head_dim: 36,
    attention_bias: true,
    use_sliding_window: true,
    sliding_window: 3,
    layer_types: ['full_attention', 'sliding_attention', 'full_attention'],
  },
  'phi3 with longrope on a part of each head': {
    ...common,
    model_type: 'phi3',
    partial_rotary_factor: 0.75,
    max_position_embeddings: 128,
    original_max_position_embeddings: 32,
    rope_scaling: {
      type: 'longrope',
      short_factor: [1, 1.1, 1.2, 1.3, 1.4, 1.5],
      long_factor: [3, 3.5, 4, 4.5, 5, 5.5],
    },
  },
  'phi3 with a window': { ...common, model_type: 'phi3', sliding_window: 4 },
} as const satisfies Readonly<Record<string, RawConfig>>

/** A base of a configuration, its weights random, through files as any other. */
export async function randomBase(config: RawConfig, sizes: LoadBaseOptions, seed = 3): Promise<BaseModel> {
  const folder = await mkdtemp(join(tmpdir(), 'clara-base-'))
  try {
    await writeFile(join(folder, 'config.json'), JSON.stringify({ ...config, vocab_size: sizes.baseVocabulary }))
    await writeSafetensors(join(folder, 'model.safetensors'), randomWeights(config, sizes.baseVocabulary, seed))
    await using source = await openWeights(folder)
    return await loadBase(source, sizes)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** Parameters by their names in Hugging Face's files, written down family by family. */
function randomWeights(config: RawConfig, vocabulary: number, seed: number): Map<string, HostTensor> {
  const random = createRandom(seed)
  const number = (key: string) => Number(config[key])
  const [hidden, inner, heads] = [number('hidden_size'), number('intermediate_size'), number('num_attention_heads')]
  const headDim = 'head_dim' in config ? number('head_dim') : hidden / heads
  const [queries, keys] = [heads * headDim, number('num_key_value_heads') * headDim]
  const family = config['model_type']
  const linears: [name: string, out: number, input: number, bias: boolean][] =
    family === 'phi3'
      ? [
          ['self_attn.qkv_proj', queries + 2 * keys, hidden, false],
          ['self_attn.o_proj', hidden, queries, false],
          ['mlp.gate_up_proj', 2 * inner, hidden, false],
          ['mlp.down_proj', hidden, inner, false],
        ]
      : [
          ...(['q', 'k', 'v'] as const).map((part): [string, number, number, boolean] => [
            `self_attn.${part}_proj`,
            part === 'q' ? queries : keys,
            hidden,
            family === 'qwen2' || config['attention_bias'] === true,
          ]),
          ['self_attn.o_proj', hidden, queries, config['attention_bias'] === true],
          ['mlp.gate_proj', inner, hidden, config['mlp_bias'] === true],
          ['mlp.up_proj', inner, hidden, config['mlp_bias'] === true],
          ['mlp.down_proj', hidden, inner, config['mlp_bias'] === true],
        ]
  const noise = (dims: readonly number[], size: number, mean = 0) =>
    float32(
      Float32Array.from({ length: dims.reduce((a, b) => a * b) }, () => mean + size * random.normal()),
      dims,
    )
  const weights = new Map<string, HostTensor>()
  for (let layer = 0; layer < number('num_hidden_layers'); layer++) {
    const name = (part: string) => `model.layers.${layer}.${part}`
    for (const [module, out, input, bias] of linears) {
      weights.set(name(`${module}.weight`), noise([out, input], 1 / Math.sqrt(input)))
      if (bias) weights.set(name(`${module}.bias`), noise([out], 0.5))
    }
    if (family === 'qwen3') {
      for (const part of ['q_norm', 'k_norm']) weights.set(name(`self_attn.${part}.weight`), noise([headDim], 0.2, 1))
    }
    for (const part of ['input', 'post_attention'])
      weights.set(name(`${part}_layernorm.weight`), noise([hidden], 0.2, 1))
  }
  weights.set('model.norm.weight', noise([hidden], 0.2, 1))
  weights.set('model.embed_tokens.weight', noise([vocabulary, hidden], 0.3))
  if (config['tie_word_embeddings'] !== true) weights.set('lm_head.weight', noise([vocabulary, hidden], 0.3))
  return weights
}

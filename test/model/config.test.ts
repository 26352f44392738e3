import { describe, expect, test } from 'vitest'
import { layerParameters, linearModules, parseDecoderConfig, slidingWindow } from '../../src/model/config.ts'

const raw = {
  model_type: 'llama',
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  rms_norm_eps: 1e-5,
  vocab_size: 100,
  max_position_embeddings: 512,
}

describe('a decoder configuration', () => {
  test('decides what a checkpoint leaves out', () => {
    expect(parseDecoderConfig({ ...raw, transformers_version: '4', sliding_window: null, head_dim: null })).toEqual({
      ...raw,
      num_key_value_heads: 4,
      head_dim: 16,
      rope_theta: 10_000,
      rope_scaling: undefined,
      partial_rotary_factor: 1,
      tie_word_embeddings: false,
      attention_bias: false,
      mlp_bias: false,
      sliding_window: undefined,
      layer_types: ['full_attention', 'full_attention'],
    })
  })

  test('gives linear layers the sizes of grouped heads, wherever head_dim comes from', () => {
    const config = parseDecoderConfig({ ...raw, num_key_value_heads: 2, head_dim: 32 })
    expect(Object.fromEntries(linearModules(config))).toEqual({
      'self_attn.q_proj': [128, 64],
      'self_attn.k_proj': [64, 64],
      'self_attn.v_proj': [64, 64],
      'self_attn.o_proj': [64, 128],
      'mlp.gate_proj': [96, 64],
      'mlp.up_proj': [96, 64],
      'mlp.down_proj': [64, 96],
    })
  })

  test('of phi3 has its fused layers, and keeps queries, keys and values of unequal widths in one', () => {
    const config = parseDecoderConfig({ ...raw, model_type: 'phi3', num_key_value_heads: 2, head_dim: 32 })
    expect(Object.fromEntries(linearModules(config))).toEqual({
      'self_attn.qkv_proj': [128 + 2 * 64, 64],
      'self_attn.o_proj': [64, 128],
      'mlp.gate_up_proj': [192, 64],
      'mlp.down_proj': [64, 96],
    })
  })

  const biases = (change: Record<string, unknown>) =>
    [...layerParameters(parseDecoderConfig({ ...raw, ...change })).keys()]
      .filter((name) => name.endsWith('.bias'))
      .map((name) => name.replace('self_attn.', '').replace('_proj.bias', ''))

  test('has the biases that its family honours, and no others', () => {
    const both = { attention_bias: true, mlp_bias: true }
    expect(biases({})).toEqual([])
    expect(biases(both)).toEqual(['q', 'k', 'v', 'o', 'mlp.gate', 'mlp.up', 'mlp.down'])
    expect(biases({ attention_bias: true })).toEqual(['q', 'k', 'v', 'o'])
    expect(biases({ ...both, model_type: 'mistral' })).toEqual([])
    expect(biases({ model_type: 'qwen2' })).toEqual(['q', 'k', 'v'])
    expect(biases({ ...both, model_type: 'qwen2' })).toEqual(['q', 'k', 'v'])
    expect(biases({ ...both, model_type: 'qwen3' })).toEqual(['q', 'k', 'v', 'o'])
    expect(biases({ ...both, model_type: 'phi3' })).toEqual([])
  })

  test('of qwen3 has norms of queries and keys, and heads of 128 unless it says otherwise', () => {
    const parameters = layerParameters(parseDecoderConfig({ ...raw, model_type: 'qwen3' }))
    expect(parameters.get('self_attn.q_norm.weight')).toEqual([128])
    expect(parameters.get('self_attn.k_norm.weight')).toEqual([128])
    expect(parameters.get('self_attn.o_proj.weight')).toEqual([64, 512])
    expect(layerParameters(parseDecoderConfig({ ...raw, model_type: 'qwen2' })).has('self_attn.q_norm.weight')).toBe(
      false,
    )
  })

  const windows = (change: Record<string, unknown>) => {
    const config = parseDecoderConfig({ ...raw, num_hidden_layers: 4, ...change })
    return [0, 1, 2, 3].map((layer) => slidingWindow(config, layer))
  }
  const none = [undefined, undefined, undefined, undefined]

  test('slides over all layers, or over those that it names', () => {
    expect(windows({ sliding_window: 7 })).toEqual(none)
    expect(windows({ model_type: 'mistral', sliding_window: 7 })).toEqual([7, 7, 7, 7])
    expect(windows({ model_type: 'mistral', sliding_window: null })).toEqual(none)
    expect(windows({ model_type: 'mistral' })).toEqual([4096, 4096, 4096, 4096])
    expect(windows({ model_type: 'phi3', sliding_window: 7 })).toEqual([7, 7, 7, 7])
    expect(windows({ model_type: 'phi3' })).toEqual(none)
    const qwen = { model_type: 'qwen2', sliding_window: 7 }
    expect(windows({ ...qwen, max_window_layers: 1 })).toEqual(none)
    expect(windows({ ...qwen, use_sliding_window: false, max_window_layers: 1 })).toEqual(none)
    expect(windows({ ...qwen, use_sliding_window: true })).toEqual(none)
    expect(windows({ ...qwen, use_sliding_window: true, max_window_layers: 3 })).toEqual([...none.slice(1), 7])
    const layer_types = ['sliding_attention', 'full_attention', 'sliding_attention', 'full_attention']
    expect(windows({ ...qwen, model_type: 'qwen3', head_dim: 16, use_sliding_window: true, layer_types })).toEqual([
      7,
      undefined,
      7,
      undefined,
    ])
  })

  test.each([
    [{ model_type: 'mamba' }, /model family 'mamba' is unknown.*llama, mistral, qwen2, qwen3, phi3/],
    [{ model_type: 'toString' }, /model family 'toString' is unknown/],
    [{ hidden_size: undefined }, /invalid at 'hidden_size'/],
    [{ hidden_size: -64 }, /invalid at 'hidden_size'/],
    [{ hidden_act: 'gelu' }, /invalid at 'hidden_act'/],
    [{ num_key_value_heads: 3 }, /does not divide: hidden_size 64, 4 heads, 3 key-value heads/],
    [{ hidden_size: 66 }, /does not divide/],
    [{ head_dim: 15 }, /does not divide.*head_dim 15/],
    [{ head_dim: 20, partial_rotary_factor: 0.25 }, /does not divide.*5 rotary dimensions/],
    [{ partial_rotary_factor: 1.5 }, /invalid at 'partial_rotary_factor'/],
    [{ model_type: 'qwen2', layer_types: ['full_attention'] }, /layer_types.*each of 2 layers\. Got 1/],
    [{ model_type: 'qwen2', layer_types: ['full_attention', 'linear'] }, /invalid at 'layer_types.1'/],
    [
      { model_type: 'qwen2', sliding_window: 4, layer_types: ['full_attention', 'sliding_attention'] },
      /sliding attention and no window.*use_sliding_window/,
    ],
    [{ rope_scaling: { rope_type: 'yarn', factor: 4 } }, /Rotary scaling 'yarn' is unknown.*longrope/],
    [{ rope_scaling: { type: 'linear' } }, /lacks 'factor' for its rotary scaling 'linear'/],
    [{ rope_scaling: { rope_type: 'llama3', factor: 8 } }, /lacks 'low_freq_factor' for its rotary scaling 'llama3'/],
    [{ rope_scaling: { rope_type: 'longrope', long_factor: [1] } }, /lacks 'short_factor'/],
    [
      { rope_scaling: { rope_type: 'longrope', short_factor: new Array(8).fill(1), long_factor: [1, 2] } },
      /'long_factor' of the wrong length.*8 numbers.*16 rotary dimensions\. Got 2/,
    ],
    [{ rope_parameters: { full_attention: { rope_theta: 1e4 } } }, /rotary parameters for each type of layer/],
  ])('refuses %j', (change, message) => {
    expect(() => parseDecoderConfig({ ...raw, ...change })).toThrow(message)
  })
})

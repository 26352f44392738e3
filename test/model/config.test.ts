import { describe, expect, test } from 'vitest'
import { linearModules, parseDecoderConfig } from '../../src/model/config.ts'
import { inverseFrequencies, rotaryTables } from '../../src/model/rotary.ts'

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
      tie_word_embeddings: false,
      sliding_window: undefined,
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

  test.each([
    [{ model_type: 'mamba' }, /model family 'mamba' is unknown.*llama, mistral/],
    [{ hidden_size: undefined }, /invalid at 'hidden_size'/],
    [{ hidden_size: -64 }, /invalid at 'hidden_size'/],
    [{ hidden_act: 'gelu' }, /invalid at 'hidden_act'/],
    [{ num_key_value_heads: 3 }, /does not divide: hidden_size 64, 4 heads, 3 key-value heads/],
    [{ hidden_size: 66 }, /does not divide/],
    [{ head_dim: 15 }, /does not divide.*head_dim 15/],
  ])('refuses %j', (change, message) => {
    expect(() => parseDecoderConfig({ ...raw, ...change })).toThrow(message)
  })
})

describe('rotary frequencies', () => {
  const config = parseDecoderConfig({ ...raw, rope_theta: 500 })

  test('fall from one by powers of theta', () => {
    const frequencies = inverseFrequencies(config)
    expect(frequencies).toHaveLength(8)
    frequencies.forEach((frequency, pair) => {
      expect(frequency).toBeCloseTo(Math.exp(-(2 * pair * Math.log(500)) / 16), 12)
    })
  })

  test('are divided by a linear factor', () => {
    const scaled = parseDecoderConfig({ ...raw, rope_theta: 500, rope_scaling: { type: 'linear', factor: 4 } })
    expect([...inverseFrequencies(scaled)]).toEqual([...inverseFrequencies(config)].map((frequency) => frequency / 4))
  })

  test('of Llama 3 keep short waves, divide long ones, and blend without a jump between', () => {
    const scaling = {
      rope_type: 'llama3',
      factor: 8,
      low_freq_factor: 1,
      high_freq_factor: 4,
      original_max_position_embeddings: 256,
    }
    const scaled = parseDecoderConfig({ ...raw, head_dim: 512, rope_theta: 500_000, rope_scaling: scaling })
    const plain = inverseFrequencies(parseDecoderConfig({ ...raw, head_dim: 512, rope_theta: 500_000 }))
    const ratios = inverseFrequencies(scaled).map((frequency, pair) => frequency / (plain[pair] ?? 0))
    ratios.forEach((ratio, pair) => {
      const wavelength = (2 * Math.PI) / (plain[pair] ?? 0)
      if (wavelength < 64) expect(ratio).toBe(1)
      else if (wavelength > 256) expect(ratio).toBe(1 / 8)
      else expect(ratio).toBeCloseTo(1 / 8 + (7 / 8) * ((256 / wavelength - 1) / 3), 12)
      expect(ratio).toBeLessThanOrEqual(ratios[pair - 1] ?? 1)
    })
    expect(new Set(ratios).size).toBeGreaterThan(10)
  })

  test('of an unknown kind are an error', () => {
    const scaled = parseDecoderConfig({ ...raw, rope_scaling: { rope_type: 'yarn', factor: 4 } })
    expect(() => inverseFrequencies(scaled)).toThrow(/Rotary scaling 'yarn' is unknown.*default, linear, llama3/)
  })

  test('become tables of cosines and sines by position', () => {
    const { cos, sin } = rotaryTables(config, 5)
    expect(cos.dims).toEqual([5, 8])
    expect([...cos.data.slice(0, 8)]).toEqual(new Array(8).fill(1))
    expect([...sin.data.slice(0, 8)]).toEqual(new Array(8).fill(0))
    const frequency = 500 ** (-3 / 8)
    expect(Number(cos.data[4 * 8 + 3])).toBeCloseTo(Math.cos(4 * frequency), 6)
    expect(Number(sin.data[4 * 8 + 3])).toBeCloseTo(Math.sin(4 * frequency), 6)
  })
})

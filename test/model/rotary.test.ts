import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { float32, int64 } from '../../src/graph/dtype.ts'
import { addInput, addOutput, createGraph } from '../../src/graph/graph.ts'
import { type DecoderConfig, parseDecoderConfig } from '../../src/model/config.ts'
import { declareRotary, inverseFrequencies, rotaryTables } from '../../src/model/rotary.ts'
import { rotary } from '../../src/ops/normalise.ts'
import { encodeGraph } from '../../src/ops/table.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'

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
const parse = (change: Record<string, unknown>) => parseDecoderConfig({ ...raw, ...change })

describe('rotary frequencies', () => {
  const config = parse({ rope_theta: 500 })

  test('fall from one by powers of theta', () => {
    const frequencies = inverseFrequencies(config)
    expect(frequencies).toHaveLength(8)
    frequencies.forEach((frequency, pair) => {
      expect(frequency).toBeCloseTo(Math.exp(-(2 * pair * Math.log(500)) / 16), 12)
    })
  })

  test('are divided by a linear factor', () => {
    const scaled = parse({ rope_theta: 500, rope_scaling: { type: 'linear', factor: 4 } })
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
    const scaled = parse({ head_dim: 512, rope_theta: 500_000, rope_scaling: scaling })
    const plain = inverseFrequencies(parse({ head_dim: 512, rope_theta: 500_000 }))
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

  test('of a dynamic base are plain ones as far as the model was trained, and unknown beyond', () => {
    const dynamic = parse({ rope_theta: 500, rope_scaling: { type: 'dynamic', factor: 2 } })
    expect(inverseFrequencies(dynamic)).toEqual(inverseFrequencies(config))
    expect(rotaryTables(dynamic, 512)).toEqual(rotaryTables(config, 512))
    expect(() => rotaryTables(dynamic, 513)).toThrow(/'dynamic' .* at most 512 positions\. Got 513/)
  })

  test('stand in rope_parameters too', () => {
    const both = { factor: 4, rope_theta: 500, partial_rotary_factor: 0.5 }
    const newer = parse({ rope_parameters: { rope_type: 'linear', ...both } })
    const { factor, ...rest } = both
    expect(newer).toEqual(parse({ rope_scaling: { type: 'linear', factor }, ...rest }))
    expect([...inverseFrequencies(newer)]).toEqual([0, 1, 2, 3].map((pair) => 500 ** (-pair / 4) / 4))
    expect(parse({ rope_parameters: { rope_type: 'default', rope_theta: 500 } })).toEqual(config)
    expect(parse({ rope_scaling: null, rope_theta: 500 })).toEqual(config)
  })
})

describe('longrope', () => {
  const short_factor = [1, 1.25, 1.5, 1.75]
  const long_factor = [2, 4, 8, 16]
  const scaling = { type: 'longrope', short_factor, long_factor }
  const phi = { model_type: 'phi3', partial_rotary_factor: 0.5, rope_theta: 10_000 }
  const config = parse({ ...phi, original_max_position_embeddings: 128, rope_scaling: scaling })

  test('divides by the short factors up to the first length, by the long ones beyond', () => {
    const expected = (factors: number[]) => factors.map((factor, pair) => 1 / (factor * 10_000 ** (pair / 4)))
    const close = (length: number, factors: number[]) =>
      [...inverseFrequencies(config, length)].forEach((frequency, pair) => {
        expect(frequency).toBeCloseTo(expected(factors)[pair] ?? Number.NaN, 14)
      })
    close(1, short_factor)
    close(128, short_factor)
    close(129, long_factor)
  })

  const attentionFactor = (parsed: DecoderConfig) =>
    parsed.rope_scaling?.rope_type === 'longrope' ? parsed.rope_scaling.attention_factor : undefined

  test('multiplies cosines and sines by its attention factor', () => {
    // sqrt(1 + ln(512 / 128) / ln(128)) = sqrt(1 + 2 / 7)
    expect(attentionFactor(config)).toBeCloseTo(Math.sqrt(9 / 7), 12)
    const { cos, sin } = rotaryTables(config, 3)
    expect(cos.data[0]).toBeCloseTo(Math.sqrt(9 / 7), 6)
    expect(cos.data[2 * 4 + 1]).toBeCloseTo(Math.sqrt(9 / 7) * Math.cos(2 / 12.5), 6)
    expect(sin.data[2 * 4 + 1]).toBeCloseTo(Math.sqrt(9 / 7) * Math.sin(2 / 12.5), 6)
  })

  test('takes the lengths and factors from where transformers does', () => {
    const given = (change: Record<string, unknown>, inside: Record<string, unknown> = {}) =>
      attentionFactor(parse({ ...phi, rope_scaling: { ...scaling, ...inside }, ...change }))
    expect(given({ original_max_position_embeddings: 128 }, { attention_factor: 1.5 })).toBe(1.5)
    // phi3 was first trained with 4096 positions where it does not say; it grew no longer
    expect(given({})).toBe(1)
    // the lengths outweigh the factor
    expect(given({ original_max_position_embeddings: 128 }, { factor: 32 })).toBeCloseTo(Math.sqrt(9 / 7), 12)
    expect(given({ original_max_position_embeddings: 512 })).toBe(1)
    // other families have the factor alone, relative to max_position_embeddings = 2 ** 9
    expect(given({ model_type: 'llama' }, { factor: 8 })).toBeCloseTo(Math.sqrt(1 + 3 / 9), 12)
    const newer = {
      rope_type: 'longrope',
      short_factor,
      long_factor,
      original_max_position_embeddings: 128,
      factor: 16,
    }
    expect(attentionFactor(parse({ ...phi, model_type: 'llama', rope_parameters: newer }))).toBeCloseTo(
      Math.sqrt(1 + 4 / 7),
      12,
    )
  })

  test('was called su and yarn by the first Phi-3 models', () => {
    for (const type of ['su', 'yarn']) {
      const older = parse({ ...phi, original_max_position_embeddings: 128, rope_scaling: { ...scaling, type } })
      expect(older).toEqual(config)
    }
  })
})

test('tables hold cosines and sines by position', () => {
  const { cos, sin } = rotaryTables(parse({ rope_theta: 500 }), 5)
  expect(cos.dims).toEqual([5, 8])
  expect([...cos.data.slice(0, 8)]).toEqual(new Array(8).fill(1))
  expect([...sin.data.slice(0, 8)]).toEqual(new Array(8).fill(0))
  const frequency = 500 ** (-3 / 8)
  expect(Number(cos.data[4 * 8 + 3])).toBeCloseTo(Math.cos(4 * frequency), 6)
  expect(Number(sin.data[4 * 8 + 3])).toBeCloseTo(Math.sin(4 * frequency), 6)
})

describe('a rotation in a graph', () => {
  let runtime: Runtime
  beforeAll(async () => {
    runtime = await openRuntime({ threads: 1 })
  })
  afterAll(() => runtime.close())

  test('turns the first part of each head only, and switches to the long factors with the last position', async () => {
    const config = parse({
      model_type: 'phi3',
      partial_rotary_factor: 0.5,
      rope_theta: 100,
      original_max_position_embeddings: 8,
      rope_scaling: { type: 'longrope', short_factor: [1, 2, 1, 2], long_factor: [4, 8, 4, 8], attention_factor: 2 },
    })
    const graph = createGraph('rotary')
    const { cos, sin, rows } = declareRotary(graph, config, 12)
    const positions = addInput(graph, 'positions', 'int64', [1, 'length'])
    const x = addInput(graph, 'x', 'float32', [1, 'length', 64])
    const places = rows?.(positions)
    expect(places).toBeDefined()
    addOutput(graph, 'y', rotary(x, places ?? positions, { heads: 4, rotaryDim: 8, cos, sin }))
    await using session = await runtime.open(encodeGraph(graph))
    const value = (position: number, at: number) => Math.sin(position * 64 + at)
    for (const length of [8, 9]) {
      const data = Float32Array.from({ length: length * 64 }, (_, index) => value(Math.floor(index / 64), index % 64))
      const { y } = await session.run({
        x: float32(data, [1, length, 64]),
        positions: int64(Array.from({ length }).keys(), [1, length]),
      })
      const factors = length === 8 ? [1, 2, 1, 2] : [4, 8, 4, 8]
      for (const position of [0, 3, length - 1]) {
        for (const [pair, factor] of factors.entries()) {
          // pair `pair` of head 1, which lies at 16; its other half is 4 further on
          const [a, b] = [value(position, 16 + pair), value(position, 20 + pair)]
          const angle = position / (factor * 100 ** (pair / 4))
          const at = position * 64 + 16 + pair
          expect(Number(y?.data[at])).toBeCloseTo(2 * (a * Math.cos(angle) - b * Math.sin(angle)), 4)
          expect(Number(y?.data[at + 4])).toBeCloseTo(2 * (b * Math.cos(angle) + a * Math.sin(angle)), 4)
          expect(Number(y?.data[at + 8])).toBeCloseTo(value(position, 24 + pair), 6)
        }
      }
    }
  })

  test('needs no switch where no sequence is long', () => {
    const config = parse({
      model_type: 'phi3',
      original_max_position_embeddings: 8,
      rope_scaling: { type: 'longrope', short_factor: new Array(8).fill(1), long_factor: new Array(8).fill(2) },
    })
    expect(declareRotary(createGraph('short'), config, 8).rows).toBeUndefined()
    expect(declareRotary(createGraph('long'), config, 9).rows).toBeDefined()
  })
})

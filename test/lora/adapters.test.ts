import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { check, randomTensor } from '../../src/autodiff/check.ts'
import { compressorBatch } from '../../src/clara/batch.ts'
import { openEncoder } from '../../src/clara/encoder.ts'
import { inferenceRole } from '../../src/clara/inference.ts'
import { createRandom } from '../../src/data/random.ts'
import { adapterShapes, addLowRank, initialAdapter } from '../../src/lora/adapters.ts'
import { linearModules, parseDecoderConfig } from '../../src/model/config.ts'
import { linear } from '../../src/ops/matmul.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'
import { encodeText } from '../../src/training/stages/samples.ts'
import { tinyModel, tinyTexts } from '../clara/tiny.ts'

const config = parseDecoderConfig({
  model_type: 'llama',
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  rms_norm_eps: 1e-5,
  vocab_size: 100,
  max_position_embeddings: 512,
})
const size = { rank: 4, alpha: 8 }

let runtime: Runtime
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
})
afterAll(() => runtime.close())

describe('an adapter', () => {
  test('has two factors on every linear layer, of the layers that carry it', () => {
    const shapes = adapterShapes(config, size, 'encoder_adapter', 2)
    expect(shapes.size).toBe(2 * 7 * 2)
    for (let layer = 0; layer < 2; layer++) {
      for (const [module, [out, input]] of linearModules(config)) {
        const name = `model.layers.${layer}.${module}`
        expect(shapes.get(`${name}.lora_A.encoder_adapter.weight`)).toEqual([4, input])
        expect(shapes.get(`${name}.lora_B.encoder_adapter.weight`)).toEqual([out, 4])
      }
    }
    expect(adapterShapes(config, size, 'decoder_adapter').size).toBe(3 * 7 * 2)
  })

  test('starts with A uniform in ±1/sqrt(in) and B zero, the same for the same seed', () => {
    const make = (seed: number) => initialAdapter(config, size, 'decoder_adapter', createRandom(seed).uniform)
    const adapter = make(3)
    for (const [name, { dims, data }] of adapter) {
      expect(data.length).toBe((dims[0] ?? 0) * (dims[1] ?? 0))
      const values = Array.from(data, Number)
      if (name.includes('lora_B')) expect(new Set(values)).toEqual(new Set([0]))
      else {
        const bound = 1 / Math.sqrt(dims[1] ?? 0)
        expect(Math.max(...values)).toBeLessThanOrEqual(bound)
        expect(Math.min(...values)).toBeGreaterThanOrEqual(-bound)
        const variance = values.reduce((sum, x) => sum + x * x, 0) / values.length
        expect(variance / (bound ** 2 / 3)).toBeGreaterThan(0.7)
        expect(variance / (bound ** 2 / 3)).toBeLessThan(1.3)
      }
    }
    expect(make(3)).toEqual(adapter)
    expect(make(4)).not.toEqual(adapter)
  })

  test('adds scale · B A to the weight, dropout reaching the update alone', async () => {
    const [rows, input, out, rank] = [5, 6, 4, 2]
    const shapes = { x: [rows, input], w: [out, input], a: [rank, input], b: [out, rank], mask: [rows, input] }
    const inputs = Object.fromEntries(
      Object.entries(shapes).map(([name, dims], seed) => [name, { value: randomTensor(dims, seed + 1) }]),
    ) as Record<keyof typeof shapes, { value: ReturnType<typeof randomTensor> }>
    await check(runtime, {
      inputs,
      build: ({ x, w, a, b, mask }) => addLowRank(linear(x, w), mask, { a, b }, 1.7),
      reference: ({ x, w, a, b, mask }) =>
        Float64Array.from({ length: rows * out }, (_, at) => {
          const [row, column] = [Math.floor(at / out), at % out]
          const dot = (left: Float64Array, leftRow: number, right: Float64Array, rightRow: number) =>
            Array.from(
              { length: input },
              (_, i) => (left[leftRow * input + i] ?? 0) * (right[rightRow * input + i] ?? 0),
            ).reduce((sum, term) => sum + term, 0)
          let value = dot(x, row, w, column)
          for (let r = 0; r < rank; r++) value += 1.7 * (b[column * rank + r] ?? 0) * dot(mask, row, a, r)
          return value
        }),
    })
  })
})

test('a fresh adapter changes nothing: the memory is that of the base alone, bit for bit', async () => {
  const compressor = { memory: 'mean' } as const
  const memories: Float32Array[][] = []
  for (const [role, fresh] of [
    ['encoder_adapter', true],
    [undefined, true],
    ['encoder_adapter', false],
  ] as const) {
    const { base, options, samples, rate } = await tinyModel(runtime, { compressor, fresh })
    const prepared = await inferenceRole({
      runtime,
      base,
      adapters: options.parameters,
      role,
      size: options.lora,
      layers: base.config.num_hidden_layers,
      kind: 'fp32',
      head: false,
    })
    await using encoder = await openEncoder({ ...options, role: prepared, pooling: { ...options.pooling, rate } })
    const documents = tinyTexts.map((text) => encodeText(text, samples))
    memories.push((await encoder.encode(documents)).map(({ tokens }) => tokens))
    const { memoryCounts } = compressorBatch(documents, options.padId, { ...options.pooling, rate })
    expect(memories.at(-1)?.map(({ length }) => length / base.config.hidden_size)).toEqual(memoryCounts)
  }
  const [fresh, without, trained] = memories
  expect(fresh).toEqual(without)
  expect(trained).not.toEqual(without)
})

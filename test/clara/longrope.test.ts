import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { compressorBatch, fixedWidth } from '../../src/clara/batch.ts'
import { compressorConfig } from '../../src/clara/config.ts'
import { openEncoder } from '../../src/clara/encoder.ts'
import { inferenceRole } from '../../src/clara/inference.ts'
import { parseDecoderConfig } from '../../src/model/config.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'
import { encodeText } from '../../src/training/stages/samples.ts'
import { families } from '../model/families.ts'
import { tinyModel, tinyTexts } from './tiny.ts'

let runtime: Runtime
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
})
afterAll(() => runtime.close())

describe('documents of a model whose rotations depend on the length', () => {
  const config = families['phi3 with longrope on a part of each head']

  test('count as a full document where some may be long, and as they are elsewhere', () => {
    const parsed = parseDecoderConfig(config)
    expect(fixedWidth(parsed, 24, 5)).toBeUndefined()
    expect(fixedWidth(parsed, 24, 6)).toBe(33)
    expect(fixedWidth(parseDecoderConfig(families['mistral with a window']), 4000, 6)).toBeUndefined()
  })

  test('have the same memory alone and beside a long one', async () => {
    const model = await tinyModel(runtime, { config, differentMemTokens: true })
    const { base, options, samples, rate } = model
    const role = await inferenceRole({
      runtime,
      base,
      adapters: options.parameters,
      role: 'encoder_adapter',
      size: options.lora,
      layers: 3,
      kind: 'fp32',
      head: false,
    })
    const [long, short] = [tinyTexts[0] ?? '', 'A short one.'].map((text) => encodeText(text, samples))
    if (!long || !short) throw new Error('no documents')
    expect(long.ids).toHaveLength(33)
    const memoryOf = async (width: number | undefined, together: boolean) => {
      const pooling = { ...options.pooling, rate, width }
      await using encoder = await openEncoder({ ...options, role, pooling })
      const memories = await encoder.encode(together ? [short, long] : [short])
      return memories[0]?.tokens ?? new Float32Array()
    }
    const difference = async (width: number | undefined) => {
      const [alone, beside] = [await memoryOf(width, false), await memoryOf(width, true)]
      expect(alone.length).toBe(6 * 64)
      return alone.reduce((most, x, at) => Math.max(most, Math.abs(x - (beside[at] ?? Number.NaN))), 0)
    }
    expect(await difference(fixedWidth(base.config, 24, 6))).toBeLessThan(1e-5)
    // without a fixed width the neighbour would decide which factors are used
    expect(await difference(undefined)).toBeGreaterThan(1e-3)
  })
})

test('documents of a given width end with its last position', () => {
  const documents = [{ ids: [1, 2, 3], text: [0, 2] as const, memoryTokens: 1 }]
  const places = (width?: number) => {
    const pooling = { config: compressorConfig.parse({}), rate: 4, fixedCount: 1, width }
    const { feeds } = compressorBatch(documents, 0, pooling)
    return Array.from(feeds['positions']?.data ?? [], Number)
  }
  expect(places()).toEqual([0, 1, 2])
  expect(places(7)).toEqual([4, 5, 6])
  expect(places(2)).toEqual([0, 1, 2])
})

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { quantiseBlocks } from '../../src/checkpoint/block-quantise.ts'
import { float16ToNumber, numberToFloat16 } from '../../src/checkpoint/half.ts'

/** Integers of a quantised weight, in order. */
function integers(values: Uint8Array, bits: 4 | 8): number[] {
  return bits === 8 ? [...values] : [...values].flatMap((byte) => [byte % 16, Math.floor(byte / 16)])
}

const steps = { 4: { zero: 8, last: 15 }, 8: { zero: 128, last: 255 } } as const

/** The scale of a block by the formula, and the distance of each weight to the nearest of all steps, by trying them. */
function bruteForce(block: readonly number[], bits: 4 | 8) {
  const extreme = block.reduce((most, value) => (Math.abs(value) > Math.abs(most) ? value : most), 0)
  const exact = bits === 4 ? Math.fround(-extreme / 8) : Math.fround(Math.abs(extreme) / 127)
  const scale = float16ToNumber(numberToFloat16(exact))
  const { zero, last } = steps[bits]
  const grid = Array.from({ length: last + 1 }, (_, q) => (q - zero) * scale)
  return { scale, distances: block.map((value) => Math.min(...grid.map((step) => Math.abs(value - step)))) }
}

const weight = fc.float({ min: -4, max: 4, noNaN: true })
const weights = fc.array(fc.array(weight, { minLength: 32, maxLength: 32 }), { minLength: 1, maxLength: 4 })

describe.each([4, 8] as const)('blocks of %i bits', (bits) => {
  test('hold every weight at the nearest step of its block', () => {
    fc.assert(
      fc.property(weights, (blocks) => {
        const flat = Float32Array.from(blocks.flat())
        const { values, scales } = quantiseBlocks(flat, bits, 'w')
        const found = integers(values, bits)
        expect(found.length).toBe(flat.length)
        blocks.forEach((_, index) => {
          const block = [...flat.subarray(index * 32, (index + 1) * 32)]
          const { scale, distances } = bruteForce(block, bits)
          expect(float16ToNumber(scales[index] ?? 0)).toBe(scale)
          block.forEach((value, at) => {
            const restored = ((found[index * 32 + at] ?? 0) - steps[bits].zero) * scale
            // half-way cases may go either way in float32
            expect(Math.abs(value - restored)).toBeLessThanOrEqual((distances[at] ?? 0) + 1e-4 * Math.abs(scale))
          })
        })
      }),
      { numRuns: 200 },
    )
  })

  test('a second rounding changes nothing', () => {
    // half a step of the smallest scales, which float16 holds to 2^-24, times the largest integer
    const least = (bits === 8 ? 127 : 8) * 2 ** -25
    fc.assert(
      fc.property(weights, (blocks) => {
        const once = quantiseBlocks(Float32Array.from(blocks.flat()), bits, 'w')
        const restored = Float32Array.from(
          integers(once.values, bits),
          (q, at) => (q - steps[bits].zero) * float16ToNumber(once.scales[Math.floor(at / 32)] ?? 0),
        )
        const twice = quantiseBlocks(restored, bits, 'w')
        const again = Float32Array.from(
          integers(twice.values, bits),
          (q, at) => (q - steps[bits].zero) * float16ToNumber(twice.scales[Math.floor(at / 32)] ?? 0),
        )
        restored.forEach((value, at) => {
          expect(Math.abs(value - (again[at] ?? 0))).toBeLessThanOrEqual(2e-3 * Math.abs(value) + least)
        })
      }),
      { numRuns: 100 },
    )
  })

  test('a block of zeros stays zero', () => {
    const { values, scales } = quantiseBlocks(new Float32Array(32), bits, 'w')
    expect(scales[0]).toBe(bits === 4 ? 0x8000 : 0)
    expect(new Set(integers(values, bits))).toEqual(new Set([steps[bits].zero]))
  })

  test.each([Number.NaN, Number.POSITIVE_INFINITY, 1e9])('%d in a weight is told by name', (value) => {
    const data = new Float32Array(64)
    data[40] = value
    expect(() => quantiseBlocks(data, bits, 'model.layers.0.mlp.up_proj.weight')).toThrow(
      /'model.layers.0.mlp.up_proj.weight' cannot be quantised/,
    )
  })
})

test('the largest weight of a 4-bit block is exact but for the scale, whatever its sign', () => {
  for (const extreme of [1.5, -1.5]) {
    const block = Float32Array.from({ length: 32 }, (_, at) => (at === 5 ? extreme : at / 100))
    const { values, scales } = quantiseBlocks(block, 4, 'w')
    expect(((integers(values, 4)[5] ?? 0) - 8) * float16ToNumber(scales[0] ?? 0)).toBe(extreme)
  }
})

import fc from 'fast-check'
import { expect, test } from 'vitest'
import { ClaraError } from '../../src/errors.ts'
import { dequantiseMemory, quantiseMemory } from '../../src/store/quantise.ts'
import type { Float32Memory } from '../../src/store/store.ts'

function memoryOf(n: number, width: number, values: ArrayLike<number>): Float32Memory {
  return { dtype: 'float32', tokens: Float32Array.from(values), n, width }
}

test('each token has its own scale, a 127th of its largest number', () => {
  const quantised = quantiseMemory(memoryOf(3, 3, [127, -64, 0.4, 0.0127, 0, -0.0001, 0, 0, 0]))
  expect(quantised).toMatchObject({ dtype: 'int8', n: 3, width: 3 })
  expect([...quantised.tokens]).toEqual([127, -64, 0, 127, 0, -1, 0, 0, 0])
  expect(quantised.scales[0]).toBe(1)
  expect(quantised.scales[1]).toBeCloseTo(1e-4, 9)
  expect(quantised.scales[2]).toBe(0)
})

test('no number is off by more than half a scale, and signs and zeros stay', () => {
  const number = fc.float({ noNaN: true, noDefaultInfinity: true })
  const property = fc.property(
    fc.integer({ min: 1, max: 5 }),
    fc.integer({ min: 1, max: 9 }),
    fc.gen(),
    (n, width, gen) => {
      const memory = memoryOf(
        n,
        width,
        Array.from({ length: n * width }, () => gen(() => number)),
      )
      const back = dequantiseMemory(quantiseMemory(memory))
      expect(back).toMatchObject({ dtype: 'float32', n, width })
      for (let token = 0; token < n; token++) {
        const original = memory.tokens.subarray(token * width, (token + 1) * width)
        const restored = back.tokens.subarray(token * width, (token + 1) * width)
        const largest = Math.max(...original.map(Math.abs))
        // Half a scale, the rounding of the float32 product, and the coarse steps of the smallest float32 numbers.
        const bound = largest / 254 + largest * 2 ** -22 + 127 * 2 ** -149
        for (const [index, value] of original.entries()) {
          const found = restored[index] ?? Number.NaN
          expect(Math.abs(found - value)).toBeLessThanOrEqual(bound)
          expect(found * Math.sign(value)).toBeGreaterThanOrEqual(0)
          if (value === 0) expect(found).toBeCloseTo(0, 300)
        }
      }
    },
  )
  fc.assert(property)
})

test('float32 memory needs no restoring', () => {
  const memory = memoryOf(1, 2, [1, 2])
  expect(dequantiseMemory(memory)).toBe(memory)
})

test.each([
  ['a wrong length', memoryOf(2, 3, [1, 2, 3]), /6 numbers \(2 tokens of 3\).*3/],
  ['NaN', memoryOf(2, 1, [1, Number.NaN]), /token 1.*NaN/],
  ['an infinite number', memoryOf(1, 2, [-Infinity, 0]), /token 0.*-Infinity/],
])('refuses %s', (_, memory, message) => {
  expect(() => quantiseMemory(memory)).toThrow(ClaraError)
  expect(() => quantiseMemory(memory)).toThrow(message)
})

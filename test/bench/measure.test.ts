import fc from 'fast-check'
import { expect, test } from 'vitest'
import { inTurn, median, medianOf } from '../../bench/measure.ts'

test('as many values lie below the median as above it', () => {
  fc.assert(
    fc.property(fc.array(fc.integer({ min: -50, max: 50 }), { minLength: 1 }), (values) => {
      const middle = median(values)
      const below = values.filter((value) => value < middle).length
      const above = values.filter((value) => value > middle).length
      expect(Math.max(below, above)).toBeLessThanOrEqual(values.length / 2)
    }),
  )
  expect(median([4, 1])).toBe(2.5)
  expect(() => median([])).toThrow(/no values/)
})

test('actions take turns, and their first round does not count', async () => {
  const order: string[] = []
  const times = await inTurn(2, { a: async () => order.push('a'), b: async () => order.push('b') })
  expect(order.join('')).toBe('ababab')
  expect([times.a.length, times.b.length]).toEqual([2, 2])
})

test('a ratio is taken within each round, not of medians', () => {
  const times = { slow: [10, 40, 90], fast: [1, 2, 3] }
  expect(medianOf(times, ({ slow, fast }) => slow / fast)).toBe(20)
  expect(medianOf({ slow: [10, 90, 40], fast: [3, 3, 1] }, ({ slow, fast }) => slow / fast)).toBe(30)
})

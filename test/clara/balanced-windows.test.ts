import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { balancedWindows } from '../../src/clara/balanced-windows.ts'
import { compressorConfig } from '../../src/clara/config.ts'
import { windows } from '../../src/clara/windows.ts'

const parted = (content: readonly number[], count: number) =>
  balancedWindows(content, count).map(([start, end]) => content.slice(start, end))

const costOf = (content: readonly number[], list: readonly (readonly [start: number, end: number])[]) =>
  list.reduce(
    (sum, [start, end]) => sum + content.slice(start, end).reduce((inside, value) => inside + value, 0) ** 2,
    0,
  )

/** The least cost over all ways to part the content, by trying them. */
function leastCost(content: readonly number[], count: number): number {
  if (count === 1) return costOf(content, [[0, content.length]])
  let least = Number.POSITIVE_INFINITY
  for (let end = 1; end <= content.length - count + 1; end++) {
    least = Math.min(least, costOf(content, [[0, end]]) + leastCost(content.slice(end), count - 1))
  }
  return least
}

describe('balanced windows', () => {
  test('part words that matter, and leave the others where they are', () => {
    expect(parted([1, 1, 0, 0, 0, 0, 1, 1], 4)).toEqual([[1], [1], [0, 0, 0, 0, 1], [1]])
    expect(parted([2, 1, 1, 2], 3)).toEqual([[2], [1, 1], [2]])
  })

  test('cost least of all ways to part a text', () => {
    const content = fc.array(fc.double({ min: 0, max: 3, noNaN: true }), { minLength: 1, maxLength: 9 })
    fc.assert(
      fc.property(content, fc.nat(), (values, some) => {
        const count = 1 + (some % values.length)
        expect(costOf(values, balancedWindows(values, count))).toBeCloseTo(leastCost(values, count), 9)
      }),
    )
  })

  test('cover a text of any length, none of them empty', () => {
    const content = fc.array(fc.double({ min: 0, max: 3, noNaN: true }), { minLength: 1, maxLength: 400 })
    fc.assert(
      fc.property(content, fc.integer({ min: 1, max: 64 }), (values, rate) => {
        const count = Math.ceil(values.length / rate)
        const list = balancedWindows(values, count)
        expect(list).toHaveLength(count)
        list.forEach(([start, end], index) => {
          expect(start).toBe(index === 0 ? 0 : list[index - 1]?.[1])
          expect(end).toBeGreaterThan(start)
        })
        expect(list.at(-1)?.[1]).toBe(values.length)
      }),
      { numRuns: 50 },
    )
  })

  test('of a text give rare words windows of their own, a long number two, and connections none', () => {
    const config = compressorConfig.parse({
      memory: 'salient',
      proportional: true,
      similarity: 'maxsim',
      windows: 'balanced',
    })
    const words = ['the', 'of', 'city', 'Warsaw', '1', '9', '6', '3']
    const idf = Float32Array.from([-5.1, -4.8, -2, 1, -4.8, -4.5, -4, -4.2])
    const isDigits = (id: number) => id >= 4
    const text = (ids: readonly number[], rate: number) =>
      windows(ids, { config, rate, fixedCount: 0, idf, isDigits }).map(([start, end]) =>
        ids.slice(start, end).map((id) => words[id]),
      )
    expect(text([0, 2, 1, 3, 1, 0, 1, 0], 4)).toEqual([
      ['the', 'city', 'of'],
      ['Warsaw', 'of', 'the', 'of', 'the'],
    ])
    expect(text([3, 1, 0, 1, 0, 1, 4, 5, 6, 7], 3.4)).toEqual([
      ['Warsaw'],
      ['of', 'the', 'of', 'the', 'of', '1', '9'],
      ['6', '3'],
    ])
  })

  test('are refused where memory is not salient, or of a fixed number', () => {
    const proportionalMean = { memory: 'mean', proportional: true, similarity: 'maxsim', windows: 'balanced' }
    expect(() => compressorConfig.parse(proportionalMean)).toThrow(/need memory 'salient'/)
    expect(() => compressorConfig.parse({ memory: 'salient', windows: 'balanced' })).toThrow(/proportional/)
  })
})

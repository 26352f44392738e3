import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { compressorConfig } from '../../src/clara/config.ts'
import { digitsOf, windows } from '../../src/clara/windows.ts'

const proportional = compressorConfig.parse({ memory: 'mean', proportional: true, similarity: 'maxsim' })
const fixed = compressorConfig.parse({ memory: 'mean' })
const text = (length: number) => Array.from({ length }, (_, index) => index)

describe('windows', () => {
  const lengths = fc.integer({ min: 1, max: 400 })

  test('in proportion to the length cut it into one stretch after the other, the last perhaps short', () => {
    const rates = fc.oneof(fc.integer({ min: 1, max: 64 }), fc.double({ min: 1, max: 64, noNaN: true }))
    fc.assert(
      fc.property(lengths, rates, (length, rate) => {
        const list = windows(text(length), { config: proportional, rate, fixedCount: 7 })
        expect(list).toHaveLength(Math.ceil(length / rate))
        list.forEach(([start, end], index) => {
          expect(start).toBe(index === 0 ? 0 : list[index - 1]?.[1])
          expect(end - start).toBeGreaterThanOrEqual(1)
          expect(end - start).toBeLessThanOrEqual(Math.ceil(rate))
        })
        expect(list.at(-1)?.[1]).toBe(length)
      }),
    )
    expect(windows(text(10), { config: proportional, rate: 4, fixedCount: 1 })).toEqual([
      [0, 4],
      [4, 8],
      [8, 10],
    ])
  })

  test('of a fixed number share the text evenly, and repeat tokens of a text that has too few', () => {
    fc.assert(
      fc.property(lengths, fc.integer({ min: 1, max: 64 }), (length, fixedCount) => {
        const list = windows(text(length), { config: fixed, rate: 4, fixedCount })
        expect(list).toHaveLength(fixedCount)
        const sizes = list.map(([start, end]) => end - start)
        for (const [start, end] of list) expect(0 <= start && start < end && end <= length).toBe(true)
        expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThanOrEqual(1)
        const covered = new Set(
          list.flatMap(([start, end]) => Array.from({ length: end - start }, (_, at) => start + at)),
        )
        if (length >= fixedCount) expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(length)
        expect(covered.size).toBe(Math.min(length, Math.max(fixedCount, covered.size)))
      }),
    )
  })

  test('need a rate of at least one', () => {
    for (const rate of [0, 0.5, -4, Number.NaN, Number.POSITIVE_INFINITY]) {
      expect(() => windows(text(10), { config: proportional, rate, fixedCount: 1 })).toThrow(
        /compression rate .*at least 1/s,
      )
    }
  })

  describe('around the rarest tokens', () => {
    const config = compressorConfig.parse({
      memory: 'salient',
      proportional: true,
      similarity: 'maxsim',
      windows: 'salient',
    })
    /** Token n has idf n; tokens from 100 on are digits. */
    const idf = Float32Array.from({ length: 110 }, (_, id) => id)
    const isDigits = (id: number) => id >= 100
    const parted = (ids: readonly number[], rate: number) =>
      windows(ids, { config, rate, fixedCount: 0, idf, isDigits }).map(([start, end]) => ids.slice(start, end))

    test('each has one of them, and common tokens between two are shared in the middle', () => {
      expect(parted([1, 9, 2, 3, 4, 8, 1, 1], 4)).toEqual([
        [1, 9, 2],
        [3, 4, 8, 1, 1],
      ])
      expect(parted([9, 8, 1, 1, 1, 1, 1, 1], 4)).toEqual([[9], [8, 1, 1, 1, 1, 1, 1]])
    })

    test('a number is one: it begins its window and shares it with no word that follows', () => {
      const common = -2
      const low = Float32Array.from({ length: 110 }, (_, id) => (id === 9 ? 1 : common))
      const given = { config, rate: 4, fixedCount: 0, idf: low, isDigits }
      const ids = [1, 2, 101, 108, 102, 104, 1, 1, 1, 9, 1, 1]
      // three windows: the number, the word 9 and the first of the common tokens
      expect(windows(ids, given)).toEqual([
        [0, 2],
        [2, 6],
        [6, 12],
      ])
    })

    test('cover the text in as many windows as even ones, with each of the rarest tokens in another', () => {
      const rates = fc.oneof(fc.integer({ min: 1, max: 64 }), fc.double({ min: 1, max: 64, noNaN: true }))
      const ids = fc.array(fc.integer({ min: 0, max: 109 }), { minLength: 1, maxLength: 200 })
      fc.assert(
        fc.property(ids, rates, (given, rate) => {
          const list = windows(given, { config, rate, fixedCount: 0, idf, isDigits })
          expect(list).toHaveLength(Math.ceil(given.length / rate))
          list.forEach(([start, end], index) => {
            expect(start).toBe(index === 0 ? 0 : list[index - 1]?.[1])
            expect(end).toBeGreaterThan(start)
          })
          expect(list.at(-1)?.[1]).toBe(given.length)
          const words = given.filter((id) => !isDigits(id)).sort((a, b) => b - a)
          const rare = words.slice(0, list.length)
          // unambiguous only where the last chosen differs from the first that is not
          if (rare.at(-1) === words[list.length]) return
          for (const [start, end] of list) {
            const inside = given.slice(start, end).filter((id) => rare.includes(id))
            expect(inside.length).toBeLessThanOrEqual(1)
          }
        }),
      )
    })

    test('are refused where memory is not salient, or of a fixed number', () => {
      const proportionalMean = { memory: 'mean', proportional: true, similarity: 'maxsim', windows: 'salient' }
      expect(() => compressorConfig.parse(proportionalMean)).toThrow(/need memory 'salient'/)
      expect(() => compressorConfig.parse({ memory: 'salient', windows: 'salient' })).toThrow(/proportional/)
    })
  })
})

test('which tokens are digits comes from what they say', () => {
  const texts = ['7', ' 42', 'a1', '', ' ', '٣']
  const isDigits = digitsOf({ decode: (ids) => Array.from(ids, (id) => texts[id] ?? '').join('') })
  expect(texts.map((_, id) => isDigits(id))).toEqual([true, true, false, false, false, true])
})

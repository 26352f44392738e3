import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createRandom, deriveSeed, type RandomState } from '../../src/data/random.ts'

const seeds = fc.integer({ min: 0, max: 2 ** 40 })

describe('the seeded generator', () => {
  it('gives the numbers of xoshiro128** from a known state', () => {
    // From the reference C program with s = {1, 2, 3, 4}: 11520, 0, 5927040, 70819200. int(2^32) hands out whole words.
    const random = createRandom(0)
    random.restore([1, 2, 3, 4])
    expect(Array.from({ length: 4 }, () => random.int(2 ** 32))).toEqual([11520, 0, 5927040, 70819200])
  })

  it('continues alike from a state that went through JSON', () => {
    fc.assert(
      fc.property(seeds, fc.nat(50), (seed, skipped) => {
        const random = createRandom(seed)
        for (let draw = 0; draw < skipped; draw++) random.normal()
        const state = JSON.parse(JSON.stringify(random.state())) as RandomState
        const expected = [random.uniform(), random.normal(), random.int(1000)]
        const other = createRandom(seed + 1)
        other.restore(state)
        expect([other.uniform(), other.normal(), other.int(1000)]).toEqual(expected)
      }),
    )
  })

  it('shuffles without loss', () => {
    fc.assert(
      fc.property(seeds, fc.array(fc.integer()), (seed, items) => {
        const shuffled = createRandom(seed).shuffle([...items])
        expect([...shuffled].sort((a, b) => a - b)).toEqual([...items].sort((a, b) => a - b))
      }),
    )
  })

  it('shuffles every order equally often', () => {
    const random = createRandom(11)
    const counts = new Map<string, number>()
    for (let trial = 0; trial < 6000; trial++) {
      const order = random.shuffle(['a', 'b', 'c']).join('')
      counts.set(order, (counts.get(order) ?? 0) + 1)
    }
    expect(counts.size).toBe(6)
    // Standard deviation of each count is 29.
    for (const count of counts.values()) expect(Math.abs(count - 1000)).toBeLessThan(150)
  })

  it('draws uniform, integer and normal numbers with the right moments', () => {
    const random = createRandom(2024)
    const count = 40_000
    const uniform = Array.from({ length: count }, () => random.uniform())
    const normal = Array.from({ length: count }, () => random.normal())
    const integers = Array.from({ length: count }, () => random.int(7))
    const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length
    expect(Math.min(...uniform)).toBeGreaterThanOrEqual(0)
    expect(Math.max(...uniform)).toBeLessThan(1)
    expect(mean(uniform)).toBeCloseTo(0.5, 2)
    expect(mean(uniform.map((value) => (value - 0.5) ** 2))).toBeCloseTo(1 / 12, 2)
    expect(Math.abs(mean(normal))).toBeLessThan(0.02)
    expect(Math.abs(mean(normal.map((value) => value ** 2)) - 1)).toBeLessThan(0.03)
    expect(Math.abs(mean(normal.map((value) => value ** 4)) - 3)).toBeLessThan(0.25)
    for (let face = 0; face < 7; face++) {
      expect(Math.abs(integers.filter((value) => value === face).length - count / 7)).toBeLessThan(400)
    }
  })

  it('refuses limits that have no answer', () => {
    for (const limit of [0, -1, 1.5, 2 ** 33, Number.NaN]) expect(() => createRandom(1).int(limit)).toThrow(RangeError)
    expect(() => createRandom(1).restore([0, 0, 0, 0])).toThrow(RangeError)
  })

  it('derives seeds that differ in every part, in order and past 32 bits', () => {
    const derived = new Set<number>()
    for (let step = 0; step < 200; step++) {
      for (let micro = 0; micro < 20; micro++) derived.add(deriveSeed(1, step, micro))
    }
    expect(derived.size).toBe(4000)
    expect(deriveSeed(1, 2)).not.toBe(deriveSeed(2, 1))
    expect(deriveSeed(5)).not.toBe(deriveSeed(5 + 2 ** 32))
    expect(deriveSeed(1, 2)).toBe(deriveSeed(1, 2))
  })
})

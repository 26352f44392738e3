import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { standardisedIdf } from '../../src/training/idf.ts'

describe('standardised idf', () => {
  it('follows log(N / count), with one half for a token never seen', () => {
    // Counts 4, 2, 1, 0 (as 1/2) of N = 7: log N cancels in the mean, so idf = -log2(count) up to shift and scale.
    const idf = standardisedIdf(
      [
        [0, 0, 1, 2],
        [0, 0, 1],
      ],
      4,
    )
    const steps = [-2, -1, 0, 1]
    const mean = -0.5
    const deviation = Math.sqrt((1.5 ** 2 + 0.5 ** 2) / 2)
    for (const [token, value] of steps.entries()) expect(idf[token]).toBeCloseTo((value - mean) / deviation, 6)
  })

  it('has mean 0 and standard deviation 1, and rarer tokens weigh more', () => {
    const passages = fc.array(fc.array(fc.nat(19), { maxLength: 40 }), { minLength: 1, maxLength: 10 })
    fc.assert(
      fc.property(passages, (lists) => {
        fc.pre(lists.some((ids) => ids.length > 0))
        const idf = [
          ...standardisedIdf(
            lists.map((ids) => Int32Array.from(ids)),
            20,
          ),
        ]
        const counts = idf.map((_, token) => lists.flat().filter((id) => id === token).length)
        fc.pre(new Set(counts).size > 1)
        expect(idf.reduce((sum, value) => sum + value, 0) / 20).toBeCloseTo(0, 5)
        expect(idf.reduce((sum, value) => sum + value * value, 0) / 20).toBeCloseTo(1, 5)
        for (let token = 1; token < 20; token++) {
          const [count = 0, before = 0] = [counts[token], counts[token - 1]]
          expect(Math.sign((idf[token] ?? 0) - (idf[token - 1] ?? 0))).toBe(Math.sign(before - count))
        }
      }),
    )
  })

  it('is zero throughout when every token is equally frequent', () => {
    expect([...standardisedIdf([[0, 1, 2]], 3)]).toEqual([0, 0, 0])
  })

  it('refuses ids outside the vocabulary, and no tokens at all', () => {
    expect(() => standardisedIdf([[0, 3]], 3)).toThrow(/id 3 lies outside.*from 0 to 2/)
    expect(() => standardisedIdf([[-1]], 3)).toThrow(/id -1/)
    expect(() => standardisedIdf([[0.5]], 3)).toThrow(/id 0.5/)
    expect(() => standardisedIdf([[], []], 3)).toThrow(/no tokens to count/)
  })
})

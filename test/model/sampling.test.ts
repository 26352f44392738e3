import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createSampler, likeliest, type SamplingOptions } from '../../src/model/sampling.ts'

const logits = Float32Array.from([1, 3, 2, 0, -1, 2.5])

/** How often each token is drawn. */
function shares(options: SamplingOptions, draws = 20_000): number[] {
  const sample = createSampler({ seed: 1, ...options })
  const counts = new Array<number>(logits.length).fill(0)
  for (let draw = 0; draw < draws; draw++) {
    const token = sample(logits)
    counts[token] = (counts[token] ?? 0) + 1
  }
  return counts.map((count) => count / draws)
}

/** The distribution over the tokens that are kept. */
function distribution(temperature: number, kept: readonly number[]): number[] {
  const weights = Array.from(logits, (logit, token) => (kept.includes(token) ? Math.exp(logit / temperature) : 0))
  const total = weights.reduce((sum, weight) => sum + weight, 0)
  return weights.map((weight) => weight / total)
}

function expectClose(actual: readonly number[], expected: readonly number[]) {
  actual.forEach((share, token) => {
    // four standard deviations of 20,000 draws
    expect(Math.abs(share - (expected[token] ?? 0))).toBeLessThan(0.0142)
    if (expected[token] === 0) expect(share).toBe(0)
  })
}

const everything = [0, 1, 2, 3, 4, 5]

describe('a sampler', () => {
  test("draws from the model's distribution at the temperature", () => {
    expectClose(shares({ temperature: 1 }), distribution(1, everything))
    expectClose(shares({ temperature: 2 }), distribution(2, everything))
    expectClose(shares({ temperature: 0.5 }), distribution(0.5, everything))
  })

  test('draws among the k likeliest only', () => {
    expectClose(shares({ temperature: 1, topK: 2 }), distribution(1, [1, 5]))
    expect(shares({ temperature: 5, topK: 1 })).toEqual([0, 1, 0, 0, 0, 0])
    expectClose(shares({ temperature: 1, topK: 100 }), distribution(1, everything))
  })

  test('draws among the fewest tokens that reach topP', () => {
    // probabilities in order: .451, .273, .166, .061, .022, .008... of tokens 1, 5, 2, 0, 3, 4
    const ordered = [...distribution(1, everything)].sort((a, b) => b - a)
    const two = (ordered[0] ?? 0) + (ordered[1] ?? 0)
    expectClose(shares({ temperature: 1, topP: two - 0.01 }), distribution(1, [1, 5]))
    expectClose(shares({ temperature: 1, topP: two + 0.01 }), distribution(1, [1, 5, 2]))
    expect(shares({ temperature: 1, topP: 1e-9 })).toEqual([0, 1, 0, 0, 0, 0])
  })

  test('applies topP to what topK has left', () => {
    const [first = 0, second = 0] = [...distribution(1, [1, 5, 2])].sort((a, b) => b - a)
    expectClose(shares({ temperature: 1, topK: 3, topP: first + second - 0.01 }), distribution(1, [1, 5]))
  })

  test('is greedy at temperature 0, whatever else is set', () => {
    const sample = createSampler({ temperature: 0, topK: 3, topP: 0.5, seed: 9 })
    for (let draw = 0; draw < 10; draw++) expect(sample(logits)).toBe(1)
    expect(createSampler()(logits)).toBe(1)
  })

  test('never leaves the vocabulary or draws what is impossible, even for extreme logits', () => {
    const number = fc.oneof(fc.double({ min: -1e30, max: 1e30, noNaN: true }), fc.constant(Number.NEGATIVE_INFINITY))
    const any = fc.array(number, { minLength: 1, maxLength: 8 }).filter((list) => list.some(Number.isFinite))
    const settings = fc.record({
      temperature: fc.double({ min: 1e-3, max: 100, noNaN: true }),
      topK: fc.integer({ min: 1, max: 9 }),
      topP: fc.double({ min: 1e-6, max: 1, noNaN: true }),
      seed: fc.integer(),
    })
    fc.assert(
      fc.property(any, settings, (list, options) => {
        const values = Float32Array.from(list)
        const token = createSampler(options)(values)
        expect(Number.isInteger(token) && token >= 0 && token < list.length).toBe(true)
        expect(values[token]).not.toBe(Number.NEGATIVE_INFINITY)
      }),
    )
  })

  test.each([
    [{ temperature: -1 }, /temperature .* a number of at least 0\. Got -1/],
    [{ temperature: Number.NaN }, /temperature/],
    [{ temperature: Number.POSITIVE_INFINITY }, /temperature/],
    [{ temperature: 1, topK: 0 }, /topK .* an integer of at least 1\. Got 0/],
    [{ temperature: 1, topK: 1.5 }, /topK/],
    [{ temperature: 1, topP: 0 }, /topP .* above 0 and up to 1\. Got 0/],
    [{ temperature: 1, topP: 1.01 }, /topP/],
  ])('refuses %j', (options, message) => {
    expect(() => createSampler(options)).toThrow(message)
  })
})

test('the likeliest token is the first of equal ones', () => {
  expect(likeliest(Float32Array.from([1, 4, 4, 2]))).toBe(1)
  expect(likeliest(Float32Array.from([-5]))).toBe(0)
})

import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { createRandom } from '../../src/data/random.ts'
import { clipScale, firstNonFinite, globalNorm } from '../../src/training/clip.ts'
import { learningRateFactor } from '../../src/training/config.ts'
import { type AdamWOptions, adamwUpdate, createMoments } from '../../src/training/optimizer.ts'
import { learningRateAt } from '../../src/training/schedule.ts'

const defaults: AdamWOptions = { learningRate: 0.01, betas: [0.9, 0.95], epsilon: 1e-8, weightDecay: 0 }
const named = (values: readonly number[]) => new Map([['p', Float32Array.from(values)]])

describe('AdamW', () => {
  it('moves by the learning rate against the sign of a constant gradient, whatever its size', () => {
    // With g constant both corrected means are exact (m = g, v = g²), so every update is lr · g / (|g| + ε).
    const parameters = named([1, 1, 1])
    const moments = createMoments(parameters)
    const gradients = named([100, -0.5, 1e-3])
    for (let update = 1; update <= 50; update++) adamwUpdate(parameters, gradients, moments, update, defaults)
    const moved = [...(parameters.get('p') ?? [])].map((value) => value - 1)
    for (const [index, sign] of [-1, 1, -1].entries()) expect(moved[index]).toBeCloseTo(sign * 0.5, 4)
  })

  it('agrees with the sums that define the moments, in float64, over 40 random gradients', () => {
    const random = createRandom(5)
    const [beta1, beta2] = [0.9, 0.95]
    const [rate, decay, epsilon] = [0.02, 0.1, 1e-8]
    const start = [0.3, -1.2, 2.5]
    const parameters = named(start)
    const moments = createMoments(parameters)
    const history: number[][] = []
    let expected = [...start]
    for (let t = 1; t <= 40; t++) {
      const gradient = [...Float32Array.from(start, () => random.normal())]
      history.push(gradient)
      adamwUpdate(parameters, named(gradient), moments, t, {
        learningRate: rate,
        betas: [beta1, beta2],
        epsilon,
        weightDecay: decay,
      })
      // Not the recursion but what it stands for: m̂ = Σ β1^(t-i) g_i / Σ β1^(t-i), and likewise v̂ of g².
      const mean = (index: number, beta: number, power: number) => {
        const weights = history.map((_, i) => beta ** (history.length - 1 - i))
        const sum = history.reduce((total, g, i) => total + (weights[i] ?? 0) * (g[index] ?? 0) ** power, 0)
        return sum / weights.reduce((total, w) => total + w, 0)
      }
      expected = expected.map((value, index) => {
        const decayed = value - rate * decay * value
        return decayed - (rate * mean(index, beta1, 1)) / (Math.sqrt(mean(index, beta2, 2)) + epsilon)
      })
    }
    const got = [...(parameters.get('p') ?? [])]
    for (const [index, value] of expected.entries()) expect(got[index]).toBeCloseTo(value, 5)
  })

  it('decays weights apart from the gradient: without one they shrink by the plain factor', () => {
    const parameters = named([2, -4])
    const options = { ...defaults, learningRate: 0.1, weightDecay: 0.5 }
    adamwUpdate(parameters, named([0, 0]), createMoments(parameters), 1, options)
    expect([...(parameters.get('p') ?? [])]).toEqual([...Float32Array.of(2 * 0.95, -4 * 0.95)])
  })

  it('gives each parameter its own factor of the learning rate', () => {
    const parameters = new Map([
      ['slow', Float32Array.of(0)],
      ['fast', Float32Array.of(0)],
      ['frozen', Float32Array.of(7)],
    ])
    const gradients = new Map([...parameters.keys()].map((name) => [name, Float32Array.of(-1)]))
    const factors = { fast: 10, frozen: 0 }
    const learningRate = (name: string) => learningRateFactor(factors, name)
    adamwUpdate(parameters, gradients, createMoments(parameters), 1, { ...defaults, learningRateFactor: learningRate })
    expect(parameters.get('slow')?.[0]).toBeCloseTo(0.01, 7)
    expect(parameters.get('fast')?.[0]).toBeCloseTo(0.1, 6)
    expect(parameters.get('frozen')?.[0]).toBe(7)
  })

  it('uses scaled gradients: scaling in the update equals scaling before', () => {
    const [one, other] = [named([1, 2]), named([1, 2])]
    const [momentsOfOne, momentsOfOther] = [createMoments(one), createMoments(other)]
    adamwUpdate(one, named([4, -8]), momentsOfOne, 1, { ...defaults, gradientScale: 0.25 })
    adamwUpdate(other, named([1, -2]), momentsOfOther, 1, defaults)
    expect(one).toEqual(other)
    expect(momentsOfOne).toEqual(momentsOfOther)
  })

  it('refuses a gradient of another length', () => {
    const parameters = named([1, 2])
    const update = () => adamwUpdate(parameters, named([1]), createMoments(parameters), 1, defaults)
    expect(update).toThrow(/gradient of parameter "p" is the wrong size. Expected 2 numbers. Got 1./)
  })
})

describe('the factor of the learning rate', () => {
  it('follows the longest part that occurs in the name', () => {
    const factors = { encoder: 2, 'encoder.layers.0': 3, salient: 5 }
    expect(learningRateFactor(factors, 'encoder.layers.0.q')).toBe(3)
    expect(learningRateFactor(factors, 'encoder.layers.1.q')).toBe(2)
    expect(learningRateFactor(factors, 'decoder.layers.1.q')).toBe(1)
  })
})

describe('the learning rate', () => {
  const schedule = { shape: 'cosine', peak: 1, minimum: 0.1, warmupUpdates: 10, updates: 110 } as const

  it('warms up linearly, falls along half a cosine and ends at the minimum', () => {
    expect(learningRateAt(1, schedule)).toBeCloseTo(0.1, 12)
    expect(learningRateAt(5, schedule)).toBeCloseTo(0.5, 12)
    expect(learningRateAt(10, schedule)).toBe(1)
    expect(learningRateAt(60, schedule)).toBeCloseTo(0.55, 12)
    // A third of the way: cos 60° = 1/2.
    expect(learningRateAt(10 + 100 / 3, schedule)).toBeCloseTo(0.1 + 0.9 * 0.75, 12)
    expect(learningRateAt(110, schedule)).toBeCloseTo(0.1, 12)
    expect(learningRateAt(500, schedule)).toBeCloseTo(0.1, 12)
  })

  it('stays at the peak when constant, and starts there without warm-up', () => {
    expect(learningRateAt(110, { ...schedule, shape: 'constant' })).toBe(1)
    expect(learningRateAt(5, { ...schedule, shape: 'constant' })).toBe(0.5)
    expect(learningRateAt(1, { ...schedule, shape: 'constant', warmupUpdates: 0 })).toBe(1)
  })
})

describe('clipping', () => {
  it('takes the norm over all gradients together', () => {
    const gradients = new Map([
      ['a', Float32Array.of(2, 4)],
      ['b', Float32Array.of(5, 6, 0)],
    ])
    expect(globalNorm(gradients)).toBe(9)
  })

  it('brings any gradient to at most the maximum, and leaves small ones alone', () => {
    const values = fc.array(fc.float({ noNaN: true, noDefaultInfinity: true }), { minLength: 1 })
    fc.assert(
      fc.property(values, fc.double({ min: 0.01, max: 100, noNaN: true }), (numbers, maximum) => {
        const norm = globalNorm(named(numbers))
        const scale = clipScale(norm, maximum)
        expect(norm * scale).toBeLessThanOrEqual(maximum * (1 + 1e-12))
        if (norm < maximum * 0.999 - 1e-6) expect(scale).toBe(1)
      }),
    )
    expect(clipScale(1e9, 0)).toBe(1)
  })

  it('finds the first gradient that is not finite', () => {
    const gradients = new Map([
      ['fine', Float32Array.of(1, 2)],
      ['broken', Float32Array.of(0, Number.NEGATIVE_INFINITY)],
      ['later', Float32Array.of(Number.NaN)],
    ])
    expect(firstNonFinite(gradients)).toBe('broken')
    expect(globalNorm(new Map([['large', Float32Array.of(3e38, 3e38)]]))).toBeCloseTo(3e38 * Math.SQRT2, -32)
  })
})

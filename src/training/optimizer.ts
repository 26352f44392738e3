import { ClaraError } from '../errors.ts'

/** Parameters or gradients or moments, by parameter name. */
export type NamedArrays = ReadonlyMap<string, Float32Array>

/** What AdamW remembers between updates: one pair of running means per parameter. */
export interface AdamWMoments {
  /** Running mean of the gradient. */
  readonly first: NamedArrays
  /** Running mean of its square. */
  readonly second: NamedArrays
}

export interface AdamWOptions {
  readonly learningRate: number
  readonly betas: readonly [number, number]
  /** Added to the root of the second moment. */
  readonly epsilon: number
  /** Decoupled: each update first shrinks the parameter by learningRate · weightDecay. */
  readonly weightDecay: number
  /** The learning rate's factor for a parameter (default 1 for all). */
  readonly learningRateFactor?: (name: string) => number
  /** Multiplies every gradient before use (default 1); clipping without a pass of its own. */
  readonly gradientScale?: number
}

/** Zero moments for every parameter. */
export function createMoments(parameters: NamedArrays): AdamWMoments {
  const zeros = () => new Map([...parameters].map(([name, values]) => [name, new Float32Array(values.length)]))
  return { first: zeros(), second: zeros() }
}

/**
 * One AdamW update (Loshchilov and Hutter, 2019), in place on parameters and moments. With g the scaled gradient:
 *
 *     p ← p · (1 - lr · weightDecay)
 *     m ← β1 m + (1 - β1) g        v ← β2 v + (1 - β2) g²
 *     p ← p - lr · (m / (1 - β1^t)) / (√(v / (1 - β2^t)) + ε)
 *
 * Arithmetic is float64, storage float32.
 * @param update Number of this update, counted from 1 (t above).
 * @throws ClaraError when a parameter has no gradient, or one of another length: a parameter that silently never learns
 *   is worse than an error.
 */
export function adamwUpdate(
  parameters: NamedArrays,
  gradients: NamedArrays,
  moments: AdamWMoments,
  update: number,
  options: AdamWOptions,
): void {
  const [beta1, beta2] = options.betas
  const { epsilon, weightDecay, gradientScale = 1 } = options
  const correction1 = 1 - beta1 ** update
  const rootCorrection2 = Math.sqrt(1 - beta2 ** update)
  for (const [name, values] of parameters) {
    const gradient = arrayOf(gradients, name, values.length, 'gradient')
    const first = arrayOf(moments.first, name, values.length, 'first moment')
    const second = arrayOf(moments.second, name, values.length, 'second moment')
    const rate = options.learningRate * (options.learningRateFactor?.(name) ?? 1)
    const shrink = 1 - rate * weightDecay
    const stepSize = rate / correction1
    // Indices are within bounds by the length checks above, hence the casts instead of a branch in the hot loop.
    for (let index = 0; index < values.length; index++) {
      const g = (gradient[index] as number) * gradientScale
      const m = beta1 * (first[index] as number) + (1 - beta1) * g
      const v = beta2 * (second[index] as number) + (1 - beta2) * g * g
      first[index] = m
      second[index] = v
      const direction = m / (Math.sqrt(v) / rootCorrection2 + epsilon)
      values[index] = (values[index] as number) * shrink - stepSize * direction
    }
  }
}

function arrayOf(arrays: NamedArrays, name: string, length: number, what: string): Float32Array {
  const found = arrays.get(name)
  if (found?.length === length) return found
  throw new ClaraError(`The ${what} of parameter "${name}" is ${found === undefined ? 'missing' : 'the wrong size'}.`, {
    expected: `${length} numbers`,
    received: found === undefined ? 'none' : `${found.length}`,
  })
}

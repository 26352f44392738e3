import type { NamedArrays } from './optimizer.ts'

/** The Euclidean norm over all gradients together. */
export function globalNorm(gradients: NamedArrays): number {
  let sum = 0
  for (const values of gradients.values()) {
    for (const value of values) sum += value * value
  }
  return Math.sqrt(sum)
}

/**
 * What the gradients are multiplied with so that their global norm is at most `maximum`; 1 below it. The 1e-6 in the
 * denominator is PyTorch's (`clip_grad_norm_`), so that loss curves agree.
 * @param maximum 0 switches clipping off.
 */
export function clipScale(norm: number, maximum: number): number {
  return maximum === 0 ? 1 : Math.min(1, maximum / (norm + 1e-6))
}

/** The first parameter, in map order, whose gradient holds a NaN or an infinity. */
export function firstNonFinite(arrays: NamedArrays): string | undefined {
  for (const [name, values] of arrays) {
    for (const value of values) if (!Number.isFinite(value)) return name
  }
  return undefined
}

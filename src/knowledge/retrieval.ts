import type { Memory } from '../clara/encoder.ts'
import type { Similarity } from '../clara/similarity.ts'

/**
 * The compact vector that finds candidates. *maxsim*: the mean of the L2-normalised memory tokens, [hidden]: its cosine follows the
 * mean cosine of all pairs of tokens. *flat*: the flattened memory, [tokens * hidden], whose cosine is the model's score itself.
 */
export function retrievalVector(similarity: Similarity, { tokens, shape }: Memory): Float32Array {
  if (similarity === 'flat') return tokens
  const [count, width] = shape
  const mean = new Float32Array(width)
  for (let token = 0; token < count; token++) {
    const values = tokens.subarray(token * width, (token + 1) * width)
    const norm = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0))
    if (norm === 0) continue
    for (let index = 0; index < width; index++) mean[index] = (mean[index] ?? 0) + (values[index] ?? 0) / (norm * count)
  }
  return mean
}

/** Length of {@link retrievalVector}. `memoryTokens`: how many every text has, where that is fixed. */
export function vectorWidth(similarity: Similarity, hidden: number, memoryTokens: number): number {
  return similarity === 'flat' ? memoryTokens * hidden : hidden
}

import { z } from 'zod'
import type { Memory } from '../clara/encoder.ts'
import type { Similarity } from '../clara/similarity.ts'
import { createProjection } from './projection.ts'

/* The compact vector that finds candidates for the model's own score. What it is made with is fixed when a store is made, and kept with it. */

/** How a store's retrieval vectors are made. */
export const vectorSettingsSchema = z.strictObject({
  similarity: z.enum(['flat', 'maxsim']),
  /** Numbers of a vector. */
  width: z.int().min(1),
  /** Seed of the projection; absent where nothing is projected. */
  seed: z.int().exactOptional(),
  /** What is subtracted, [width]; absent for flat, whose cosine is the score itself. */
  centre: z.array(z.number()).exactOptional(),
})
export type VectorSettings = z.output<typeof vectorSettingsSchema>

/** Memory as the store's model makes it. */
export interface MemoryShape {
  readonly similarity: Similarity
  readonly hidden: number
  /** Memory tokens of every text; of use for flat only, where they are fixed. */
  readonly tokens: number
}

/** Wider vectors are projected to this many numbers. */
const WIDEST = 768
const SEED = 20_251_118
/** Zero vectors that the mean is taken with: the centre of few rows is theirs alone, and the first of them must not become nothing. */
const PRIOR_ROWS = 4

/** Numbers of a retrieval vector: those of a memory token (maxsim), or of all of them (flat), as far as that is not more than {@link WIDEST}. */
export function vectorWidth(shape: MemoryShape): number {
  return Math.min(WIDEST, fullWidth(shape))
}

const fullWidth = ({ similarity, hidden, tokens }: MemoryShape) => (similarity === 'flat' ? hidden * tokens : hidden)

/**
 * Fixes how vectors are made, from the first memories of a store. *flat*: the flattened memory; *maxsim*: the mean of the L2-normalised
 * memory tokens, whose cosine follows the mean cosine of all pairs of tokens, less the mean over these memories, which all texts share.
 */
export function vectorSettings(shape: MemoryShape, first: readonly Memory[]): VectorSettings {
  const { similarity } = shape
  const width = vectorWidth(shape)
  const seed = width < fullWidth(shape) ? { seed: SEED } : {}
  if (similarity === 'flat') return { similarity, width, ...seed }
  const make = createVectors(shape, { similarity, width, ...seed })
  const centre = new Float64Array(width)
  for (const memory of first)
    make(memory).forEach((value, index) => {
      centre[index] = (centre[index] ?? 0) + value / (first.length + PRIOR_ROWS)
    })
  return { similarity, width, ...seed, centre: Array.from(centre, Math.fround) }
}

/** Turns memories into retrieval vectors [width]; never all zeros. */
export function createVectors(
  shape: MemoryShape,
  { width, seed, centre }: VectorSettings,
): (memory: Memory) => Float32Array {
  const project = seed === undefined ? undefined : createProjection(fullWidth(shape), width, seed)
  return (memory) => {
    const whole = shape.similarity === 'flat' ? memory.tokens : meanDirection(memory)
    const vector = project ? project(whole) : whole.slice()
    for (let index = 0; centre && index < width; index++) vector[index] = (vector[index] ?? 0) - (centre[index] ?? 0)
    if (vector.every((value) => value === 0)) vector[0] = 1
    return vector
  }
}

/** Mean of the L2-normalised memory tokens, [hidden]. */
function meanDirection({ tokens, shape: [count, width] }: Memory): Float32Array {
  const mean = new Float64Array(width)
  for (let start = 0; start < tokens.length; start += width) {
    let squares = 0
    for (let index = start; index < start + width; index++) squares += (tokens[index] ?? 0) ** 2
    if (squares === 0) continue
    const scale = 1 / (Math.sqrt(squares) * count)
    for (let index = 0; index < width; index++) mean[index] = (mean[index] ?? 0) + (tokens[start + index] ?? 0) * scale
  }
  return Float32Array.from(mean)
}

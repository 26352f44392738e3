import { createRandom } from '../data/random.ts'
import { float32, type HostTensor } from '../graph/dtype.ts'
import type { Tensor } from '../graph/graph.ts'
import { reshape } from '../ops/layout.ts'
import { linear } from '../ops/matmul.ts'
import { dimAt } from '../ops/operator.ts'

/**
 * An orthonormal matrix [size, size] that spreads every channel over all: the discrete cosine transform behind signs drawn
 * once and for all. No entry is larger than sqrt(2 / size).
 *
 * Hidden states have a few channels a hundred times larger than the rest, and 8 bits scaled to those leave little for the
 * others. In another orthonormal basis no channel stands out, and the model is the same, for the normalisation sees lengths
 * only (Ashkboos et al. 2024, QuaRot).
 */
export function rotation(size: number): HostTensor {
  const random = createRandom(1)
  const signs = Float64Array.from({ length: size }, () => (random.uniform() < 0.5 ? -1 : 1))
  const matrix = new Float32Array(size * size)
  for (let row = 0; row < size; row++) {
    const length = Math.sqrt((row === 0 ? 1 : 2) / size)
    for (let column = 0; column < size; column++) {
      const angle = (Math.PI * (column + 0.5) * row) / size
      matrix[row * size + column] = (signs[column] ?? 1) * length * Math.cos(angle)
    }
  }
  return float32(matrix, [size, size])
}

/** Longest block that is turned by itself: longer ones cost more and help little. */
const LONGEST_BLOCK = 64

/** The longest block, a power of two, that divides a width. */
export function blockLength(width: number): number {
  let length = LONGEST_BLOCK
  while (width % length !== 0) length /= 2
  return length
}

/** Blocks of the last axis of a matrix, each multiplied with a rotation of their length. */
export function turnedInBlocks(matrix: Tensor, turn: Tensor): Tensor {
  return reshape(linear(reshape(matrix, [-1, dimAt(turn, 0)]), turn), matrix.shape)
}

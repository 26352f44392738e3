import { xorshift } from './xorshift.ts'

/*
 * Signs tell most of a vector whose numbers are all about as large. Those of memory tokens are not, so they are rotated first, always in the same way:
 * signs flipped at random, a Hadamard transform of each block, the numbers of all blocks mixed, and the same once more. Products stay what they are.
 */

/** Numbers of a block at most. */
const LARGEST_BLOCK = 64
const SEED = 0x2545f491

/** Rotates a vector in place. */
export type Rotation = (vector: Float32Array) => void

const known = new Map<number, Rotation>()

/** @param width Numbers of a vector. */
export function rotationFor(width: number): Rotation {
  const found = known.get(width) ?? makeRotation(width)
  known.set(width, found)
  return found
}

function makeRotation(width: number): Rotation {
  let block = 1
  while (block < LARGEST_BLOCK && width % (2 * block) === 0) block *= 2
  const blocks = width / block
  const next = xorshift(SEED)
  // each round divides by the square root of the block
  const factors = Array.from({ length: 2 }, () =>
    Float32Array.from({ length: width }, () => (next() < 2 ** 31 ? 1 : -1) / Math.sqrt(block)),
  )
  const mixed = new Float32Array(width)
  const here = new Float32Array(width)
  return (vector) => {
    here.set(vector.subarray(0, width))
    for (const flips of factors) {
      for (let index = 0; index < width; index++) here[index] = (here[index] ?? 0) * (flips[index] ?? 0)
      for (let first = 0; first < width; first += block) hadamard(here, first, block)
      // a block's numbers go to all of the blocks
      for (let index = 0; index < width; index++) {
        mixed[(index % block) * blocks + Math.floor(index / block)] = here[index] ?? 0
      }
      here.set(mixed)
    }
    vector.set(here)
  }
}

/** The fast Walsh-Hadamard transform of a block. */
function hadamard(vector: Float32Array, first: number, block: number): void {
  for (let half = 1; half < block; half *= 2) {
    for (let begin = first; begin < first + block; begin += 2 * half) {
      for (let index = begin; index < begin + half; index++) {
        const [one, other] = [vector[index] ?? 0, vector[index + half] ?? 0]
        vector[index] = one + other
        vector[index + half] = one - other
      }
    }
  }
}

import { createRandom } from '../data/random.ts'

/**
 * A seeded projection that keeps cosines: the subsampled randomised Hadamard transform (Ailon and Chazelle 2006, Tropp 2011). Signs are
 * flipped at random, the transform spreads every number over all places, and `width` of these are kept. Two vectors at
 * cosine c come out within about (1 - c²) / √width of it. Nothing but the seed has to be stored, and it costs d · log₂ d additions.
 *
 * @param length Numbers of a vector that comes in.
 * @param width Numbers that come out; at most the next power of two from `length`.
 */
export function createProjection(length: number, width: number, seed: number): (vector: Float32Array) => Float32Array {
  const padded = 2 ** Math.ceil(Math.log2(Math.max(1, length)))
  if (width > padded) throw new RangeError(`A projection of ${length} numbers cannot have ${width}.`)
  const random = createRandom(seed)
  const signs = Float32Array.from({ length }, () => (random.int(2) === 0 ? -1 : 1))
  const kept = random.shuffle(Array.from({ length: padded }, (_, place) => place)).slice(0, width)
  const scale = 1 / Math.sqrt(width)
  const work = new Float64Array(padded)
  return (vector) => {
    work.fill(0)
    for (let index = 0; index < length; index++) work[index] = (vector[index] ?? 0) * (signs[index] ?? 0)
    hadamard(work)
    return Float32Array.from(kept, (place) => (work[place] ?? 0) * scale)
  }
}

/** The Walsh-Hadamard transform in place, not normalised; the length is a power of two. */
function hadamard(values: Float64Array): void {
  for (let half = 1; half < values.length; half *= 2) {
    for (let block = 0; block < values.length; block += 2 * half) {
      for (let index = block; index < block + half; index++) {
        const [one, other] = [values[index] ?? 0, values[index + half] ?? 0]
        values[index] = one + other
        values[index + half] = one - other
      }
    }
  }
}

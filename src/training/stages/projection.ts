import type { EncodedDocument } from '../../clara/batch.ts'
import { inverseOf, whiteningOf } from '../../clara/whitening.ts'
import type { HostTensor } from '../../graph/dtype.ts'
import type { MemoryBank } from './memory-bank.ts'

/** Documents whose memory tells which directions are common: their tokens are some thirty times as many. */
const DOCUMENTS = 640

/**
 * Begins a projection that is still the identity as C⁻¹, where C is the covariance of the directions of memory tokens, its mean variance added to every
 * direction. The product of a question's token with a document's is then their product after whitening both. Scaled to a mean of 1 along
 * the diagonal. A projection that has learned is left as it is.
 */
export async function beginProjection(
  projection: HostTensor,
  bank: Pick<MemoryBank, 'memories'>,
  documents: readonly EncodedDocument[],
): Promise<void> {
  const matrix = projection.data as Float32Array
  const [width = 0] = projection.dims
  if (!matrix.every((value, place) => value === Number(place % (width + 1) === 0))) return
  const every = Math.max(1, Math.floor(documents.length / DOCUMENTS))
  const memories = await bank.memories(documents.filter((_, index) => index % every === 0).slice(0, DOCUMENTS))
  const directions = memories.flatMap(({ tokens }) =>
    Array.from({ length: tokens.length / width }, (_, token) => direction(tokens, token * width, width)),
  )
  const mean = Float64Array.from({ length: width }, (_, place) => {
    const sum = directions.reduce((total, each) => total + (each[place] ?? 0), 0)
    return sum / directions.length
  })
  const centred = directions.map((each) => each.map((value, place) => value - (mean[place] ?? 0)))
  const inverse = inverseOf(whiteningOf(centred, 1), width)
  let trace = 0
  for (let place = 0; place < width; place++) trace += inverse[place * (width + 1)] ?? 0
  matrix.set(inverse.map((value) => (value * width) / trace))
}

function direction(tokens: Float32Array, start: number, width: number): Float64Array {
  const token = Float64Array.from(tokens.subarray(start, start + width))
  const norm = Math.hypot(...token) || 1
  return token.map((value) => value / norm)
}

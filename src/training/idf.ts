import { ClaraError } from '../errors.ts'

/**
 * Standardised inverse document frequency of every token: how rare it is in the training passages. The salient compressor
 * weighs tokens by it (DESIGN section 9).
 *
 * idf(t) = log(N / count(t)), N = tokens counted in all; a token never seen counts as one half. Then shifted and
 * scaled to mean 0 and standard deviation 1 over the vocabulary.
 * @param passages Token ids of each passage, without special tokens.
 * @param vocabularySize Ids lie in [0, vocabularySize).
 * @returns float32[vocabularySize].
 * @throws ClaraError on an id outside the vocabulary, or when there is not one token.
 */
export function standardisedIdf(passages: Iterable<ArrayLike<number>>, vocabularySize: number): Float32Array {
  const counts = new Float64Array(vocabularySize)
  let total = 0
  for (const ids of passages) {
    for (let position = 0; position < ids.length; position++) {
      const id = ids[position] ?? -1
      const before = counts[id]
      if (before === undefined) {
        throw new ClaraError(`Token id ${id} lies outside the vocabulary.`, {
          expected: `an integer from 0 to ${vocabularySize - 1}`,
          hint: 'Do the tokenizer and the model belong together?',
        })
      }
      counts[id] = before + 1
      total += 1
    }
  }
  if (total === 0) throw new ClaraError('There are no tokens to count.', { hint: 'Are the training passages empty?' })
  const idf = counts.map((count) => Math.log(total / (count || 0.5)))
  const mean = idf.reduce((sum, value) => sum + value, 0) / vocabularySize
  const deviation = Math.sqrt(idf.reduce((sum, value) => sum + (value - mean) ** 2, 0) / vocabularySize)
  // All tokens equally rare: nothing tells them apart, and 0 says so.
  return Float32Array.from(idf, (value) => (deviation === 0 ? 0 : (value - mean) / deviation))
}

import { decodeMemory, int8TokensOf } from '../codec.ts'
import { dequantiseMemory } from '../quantise.ts'
import { Arena, openKernel } from './kernel.ts'
import { maxSimilarity } from './similarity.ts'

const INT16 = 2 ** 15 - 1
const INT32 = 2 ** 31 - 1

let shared: { readonly kernel: ReturnType<typeof openKernel>; readonly arena: Arena } | undefined

/**
 * Scores memories against a question: the mean, over its tokens, of the best cosine with a token of the memory. The question's numbers are rounded to 16
 * bits, which moves a score by about 2e-6 at a width of 576.
 *
 * @param question [n, width]
 * @param memories As they are encoded.
 * @throws ClaraError when one is damaged.
 */
export function scoreMemories(question: Float32Array, width: number, memories: readonly Uint8Array[]): number[] {
  const questions = question.length / width
  shared ??= open()
  const { kernel, arena } = shared
  arena.reset(0)
  const { integers, scale } = askedDirections(question, width)
  const asked = arena.take(2 * question.length)
  const best = arena.take(4 * questions)
  const base = arena.used
  new Int16Array(kernel.memory.buffer, asked, question.length).set(integers)
  return memories.map((bytes) => {
    const int8 = int8TokensOf(bytes)
    if (int8 === undefined || int8.width !== width || int8.n === 0 || width % 16 !== 0) {
      return maxSimilarity(question, dequantiseMemory(decodeMemory(bytes)).tokens, width)
    }
    arena.reset(base)
    const tokens = arena.take(int8.tokens.length)
    new Uint8Array(kernel.memory.buffer).set(int8.tokens, tokens)
    return kernel.maxSimilarity(asked, questions, tokens, int8.n, width, best) / scale / questions
  })
}

function open() {
  const kernel = openKernel()
  return { kernel, arena: new Arena(kernel.memory) }
}

/** A question's tokens at length 1 as the kernel multiplies them: integers, to be divided by the scale. */
export function askedDirections(
  tokens: Float32Array,
  width: number,
): { readonly integers: Int16Array; readonly scale: number } {
  const values = new Float32Array(tokens.length)
  let largest = 0
  for (let start = 0; start < tokens.length; start += width) {
    let squares = 0
    for (let index = start; index < start + width; index++) squares += (tokens[index] ?? 0) ** 2
    const inverse = squares === 0 ? 0 : 1 / Math.sqrt(squares)
    for (let index = start; index < start + width; index++) {
      const value = (tokens[index] ?? 0) * inverse
      values[index] = value
      largest = Math.max(largest, Math.abs(value))
    }
  }
  // by Cauchy and Schwarz a product is at most the scale times the length of a memory's token, which is at most 127 √width
  const scale = Math.min(INT16 / Math.max(largest, 1 / INT16), (INT32 - width) / (127 * Math.sqrt(width)) - 1)
  return { integers: Int16Array.from(values, (value) => Math.round(value * scale)), scale }
}

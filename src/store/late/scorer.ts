import { decodeMemory, int8TokensOf } from '../codec.ts'
import { dequantiseMemory } from '../quantise.ts'
import { Arena, openKernel } from './kernel.ts'
import { maxSimilarity } from './similarity.ts'

let shared: { readonly kernel: ReturnType<typeof openKernel>; readonly arena: Arena } | undefined

/**
 * Scores memories against a question: the mean, over its tokens, of the best cosine with a token of the memory.
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
  const asked = arena.take(4 * question.length)
  const best = arena.take(4 * questions)
  const base = arena.used
  new Float32Array(kernel.memory.buffer, asked, question.length).set(directions(question, width))
  return memories.map((bytes) => {
    const int8 = int8TokensOf(bytes)
    if (int8 === undefined || int8.width !== width || int8.n === 0 || width % 16 !== 0) {
      return maxSimilarity(question, dequantiseMemory(decodeMemory(bytes)).tokens, width)
    }
    arena.reset(base)
    const tokens = arena.take(int8.tokens.length)
    new Uint8Array(kernel.memory.buffer).set(int8.tokens, tokens)
    return kernel.maxSimilarity(asked, questions, tokens, int8.n, width, best) / questions
  })
}

function open() {
  const kernel = openKernel()
  return { kernel, arena: new Arena(kernel.memory) }
}

function directions(tokens: Float32Array, width: number): Float32Array {
  const result = new Float32Array(tokens.length)
  for (let start = 0; start < tokens.length; start += width) {
    let squares = 0
    for (let index = start; index < start + width; index++) squares += (tokens[index] ?? 0) ** 2
    const scale = squares === 0 ? 0 : 1 / Math.sqrt(squares)
    for (let index = start; index < start + width; index++) result[index] = (tokens[index] ?? 0) * scale
  }
  return result
}

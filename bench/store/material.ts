import { Clara } from '../../src/clara/clara.ts'
import type { Memory } from '../../src/clara/encoder.ts'
import { readJsonLines } from '../../src/data/jsonl.ts'
import { createRandom } from '../../src/data/random.ts'
import { poolQuestionSchema } from '../../src/data/schemas.ts'

/** A passage with its memory. */
export interface Compressed {
  readonly text: string
  readonly memory: Memory
}

/** Distinct candidate passages of some files, taken from all of them alike, in the files' order. */
export async function readPassages(files: readonly string[], count: number): Promise<string[]> {
  const texts = new Set<string>()
  for (const [index, file] of files.entries()) {
    const share = Math.ceil((count * (index + 1)) / files.length)
    for await (const { candidates } of readJsonLines(file, poolQuestionSchema)) {
      for (const { text } of candidates) if (texts.size < share) texts.add(text)
      if (texts.size >= share) break
    }
  }
  return [...texts]
}

/** The first questions of some files, as many of each. */
export async function readQuestions(files: readonly string[], count: number): Promise<string[]> {
  const questions: string[] = []
  for (const [index, file] of files.entries()) {
    const share = Math.ceil((count * (index + 1)) / files.length)
    for await (const { question } of readJsonLines(file, poolQuestionSchema)) {
      if (questions.length >= share) break
      questions.push(question)
    }
  }
  return questions
}

export interface Material {
  readonly passages: readonly Compressed[]
  readonly questions: readonly Memory[]
  readonly fingerprint: string
}

/** Compresses passages and questions with a model, which is closed again: its threads are wanted. */
export async function compressAll(
  model: string,
  passages: readonly string[],
  questions: readonly string[],
  threads: number,
): Promise<Material> {
  await using clara = await Clara.load(model, { threads })
  const compressed: Compressed[] = []
  // those of like length together, as when they are added
  const sorted = [...passages].sort((one, other) => one.length - other.length)
  for (let start = 0; start < sorted.length; start += 32) {
    const texts = sorted.slice(start, start + 32)
    const memories = await clara.compressDocuments(texts)
    texts.forEach((text, index) => {
      const memory = memories[index]
      if (memory !== undefined) compressed.push({ text, memory })
    })
  }
  return {
    passages: compressed,
    questions: await clara.compressQuestions(questions),
    fingerprint: clara.model.fingerprint,
  }
}

/** Cosine of a filler's tokens with those of the real memory that it is made from. */
export const FILLER_COSINE = 0.9
const NORMALS = 1 << 20

/**
 * Real passages, then as many fillers as are wanted: one real memory after the other, each of its tokens turned by noise to {@link FILLER_COSINE} of
 * where it was. The same seed gives the same numbers.
 */
export function* filledUp(real: readonly Compressed[], count: number, seed = 6): Generator<Compressed> {
  const random = createRandom(seed)
  // drawing a million normals once, and beginning anywhere in them, is a hundred times faster than drawing each
  const normals = Float32Array.from({ length: NORMALS }, () => random.normal())
  for (let index = 0; index < count; index++) {
    const source = real[index % real.length]
    if (source === undefined) return
    if (index < real.length) yield source
    else yield { text: source.text, memory: turned(source.memory, normals, (limit) => random.int(limit)) }
  }
}

function turned({ tokens, shape }: Memory, normals: Float32Array, int: (limit: number) => number): Memory {
  const [, width] = shape
  const result = new Float32Array(tokens.length)
  for (let start = 0; start < tokens.length; start += width) {
    const noise = int(normals.length - width)
    let [squares, product, noiseSquares] = [0, 0, 0]
    for (let index = 0; index < width; index++) {
      const [x, e] = [tokens[start + index] ?? 0, normals[noise + index] ?? 0]
      squares += x * x
      product += x * e
      noiseSquares += e * e
    }
    // the noise without its part along the token, as long as the token
    const along = product / squares
    const across = Math.sqrt(squares / (noiseSquares - product * along)) * Math.sqrt(1 - FILLER_COSINE ** 2)
    for (let index = 0; index < width; index++) {
      const [x, e] = [tokens[start + index] ?? 0, normals[noise + index] ?? 0]
      result[start + index] = FILLER_COSINE * x + across * (e - along * x)
    }
  }
  return { tokens: result, shape }
}

import { createRandom } from '../data/random.ts'
import { ClaraError } from '../errors.ts'

export interface SamplingOptions {
  /** 0 (the default) takes the likeliest token; 1 samples the model's own distribution. */
  readonly temperature?: number
  /** Sample among the k likeliest tokens only. Default: all. */
  readonly topK?: number
  /** Sample among the likeliest tokens whose probabilities reach this sum. Default: 1. */
  readonly topP?: number
  /** Makes sampling repeatable. Default: 0. */
  readonly seed?: number
}

/** Chooses a token from logits. */
export type Sampler = (logits: Float32Array) => number

/** @throws ClaraError for a setting out of range. */
export function createSampler({ temperature = 0, topK, topP = 1, seed = 0 }: SamplingOptions = {}): Sampler {
  const wrong = (name: string, expected: string, received: number) =>
    new ClaraError(`The sampling setting ${name} is out of range.`, { expected, received: String(received) })
  if (!(temperature >= 0 && temperature < Number.POSITIVE_INFINITY))
    throw wrong('temperature', 'a number of at least 0', temperature)
  if (topK !== undefined && !(Number.isInteger(topK) && topK >= 1))
    throw wrong('topK', 'an integer of at least 1', topK)
  if (!(topP > 0 && topP <= 1)) throw wrong('topP', 'a number above 0 and up to 1', topP)
  if (temperature === 0) return likeliest
  const random = createRandom(seed)
  return (logits) => {
    const candidates = nucleus(logits, temperature, topK ?? logits.length, topP)
    let rest = random.uniform() * candidates.reduce((sum, { weight }) => sum + weight, 0)
    for (const { token, weight } of candidates) {
      rest -= weight
      if (rest < 0) return token
    }
    return candidates.at(-1)?.token ?? likeliest(logits)
  }
}

/** The token with the largest logit; the first of equal ones. */
export function likeliest(logits: Float32Array): number {
  let best = 0
  for (let token = 1; token < logits.length; token++) if ((logits[token] ?? 0) > (logits[best] ?? 0)) best = token
  return best
}

function nucleus(
  logits: Float32Array,
  temperature: number,
  topK: number,
  topP: number,
): { token: number; weight: number }[] {
  const largest = logits[likeliest(logits)] ?? 0
  const weighed = Array.from(logits, (logit, token) => ({ token, weight: Math.exp((logit - largest) / temperature) }))
  if (topK >= logits.length && topP === 1) return weighed
  weighed.sort((a, b) => b.weight - a.weight || a.token - b.token)
  const kept = weighed.slice(0, topK)
  const total = kept.reduce((sum, { weight }) => sum + weight, 0)
  let sum = 0
  const end = kept.findIndex(({ weight }) => {
    sum += weight
    return sum >= topP * total
  })
  return end < 0 ? kept : kept.slice(0, end + 1)
}

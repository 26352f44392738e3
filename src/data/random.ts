/** The generator's whole state: four unsigned 32-bit words. Survives JSON, so that a run resumes bit for bit. */
export type RandomState = readonly [number, number, number, number]

/** A seeded source of pseudo-random numbers; the same seed gives the same numbers on every machine. */
export interface Random {
  /** Uniform in [0, 1), 53 bits. */
  uniform(): number
  /** An integer in [0, limit), without modulo bias. `limit` is between 1 and 2^32. */
  int(limit: number): number
  /** Standard normal. */
  normal(): number
  /** Shuffles in place (Fisher and Yates) and returns the same array. */
  shuffle<Item>(items: Item[]): Item[]
  state(): RandomState
  restore(state: RandomState): void
}

const wordCount = 2 ** 32

/** One step of splitmix32: spreads a seed's bits over a whole word. */
function splitmix32(seed: number): number {
  let z = (seed + 0x9e3779b9) | 0
  z = Math.imul(z ^ (z >>> 16), 0x85ebca6b)
  z = Math.imul(z ^ (z >>> 13), 0xc2b2ae35)
  return (z ^ (z >>> 16)) >>> 0
}

/**
 * A new seed from several integers, for example (run seed, step, micro-batch): nothing has to be remembered to get
 * the same dropout again. Order matters.
 */
export function deriveSeed(...parts: readonly number[]): number {
  let seed = 0x243f6a88
  for (const part of parts) {
    // The high word too: integers past 2^32 (a step count times something) must not collide with small ones.
    seed = splitmix32(seed ^ (part >>> 0))
    seed = splitmix32(seed ^ (Math.floor(part / wordCount) >>> 0))
  }
  return seed
}

function rotateLeft(word: number, bits: number): number {
  return (word << bits) | (word >>> (32 - bits))
}

/**
 * xoshiro128** (Blackman and Vigna, 2018), seeded through splitmix32.
 * @param seed Any integer.
 */
export function createRandom(seed: number): Random {
  let a = 0
  let b = 0
  let c = 0
  let d = 0

  function word(): number {
    const result = Math.imul(rotateLeft(Math.imul(b, 5), 7), 9) >>> 0
    const shifted = b << 9
    c ^= a
    d ^= b
    b ^= c
    a ^= d
    c ^= shifted
    d = rotateLeft(d, 11)
    return result
  }

  function uniform(): number {
    const high = word() >>> 5
    const low = word() >>> 6
    return (high * 2 ** 26 + low) / 2 ** 53
  }

  function int(limit: number): number {
    if (!Number.isInteger(limit) || limit < 1 || limit > wordCount) {
      throw new RangeError(`int() takes a limit between 1 and 2^32, not ${limit}`)
    }
    // Words past the last whole multiple of the limit would favour small results.
    const fair = wordCount - (wordCount % limit)
    let drawn = word()
    while (drawn >= fair) drawn = word()
    return drawn % limit
  }

  function restore(state: RandomState): void {
    if (state.every((part) => part === 0)) throw new RangeError('xoshiro128** has no all-zero state')
    a = state[0] | 0
    b = state[1] | 0
    c = state[2] | 0
    d = state[3] | 0
  }

  const first = deriveSeed(seed, 1)
  restore([first, splitmix32(first), deriveSeed(seed, 2), deriveSeed(seed, 3) | 1])

  return {
    uniform,
    int,
    normal() {
      // Box and Muller. The second normal of the pair is dropped, so that four words stay the whole state.
      const radius = Math.sqrt(-2 * Math.log(1 - uniform()))
      return radius * Math.cos(2 * Math.PI * uniform())
    },
    shuffle(items) {
      for (let last = items.length - 1; last > 0; last--) {
        const other = int(last + 1)
        const held = items[last] as (typeof items)[number]
        items[last] = items[other] as (typeof items)[number]
        items[other] = held
      }
      return items
    },
    state: () => [a >>> 0, b >>> 0, c >>> 0, d >>> 0],
    restore,
  }
}

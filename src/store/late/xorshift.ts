/** Numbers from 0 to 2³² - 1 that look random and are always the same (xorshift, Marsaglia 2003). @param seed Not 0. */
export function xorshift(seed: number): () => number {
  let state = seed
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    return state >>> 0
  }
}

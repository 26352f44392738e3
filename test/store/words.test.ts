import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { floatFromHalf, halfFromFloat } from '../../src/store/half.ts'
import { openInMemoryStore } from '../../src/store/memory.ts'
import { migrate } from '../../src/store/schema.ts'
import { wordsOf } from '../../src/store/words.ts'
import { makeRow } from './conformance.ts'

describe('words', () => {
  test.each([
    ['The Opera-House (Oslo), 2008!', ['the', 'opera', 'house', 'oslo', '2008']],
    ['Crème BRÛLÉE ﬁn ①', ['creme', 'brulee', 'fin', '1']],
    ['Ελλάδα Москва', ['ελλαδα', 'москва']],
    ['हिन्दी', ['हिन्दी']],
    ['東京に', ['東', '京', '東京', 'に', '京に']],
    ['東 京', ['東', '京']],
    ['abc東x', ['abc', '東', 'x']],
    [' …\n\t?! ', []],
  ])('of %j', (text, words) => {
    expect(wordsOf(text)).toEqual(words)
  })

  test('are bounded in length and number, whatever the text', () => {
    expect(wordsOf('x'.repeat(1_000))).toEqual(['x'.repeat(64)])
    expect(wordsOf('🄰'.repeat(10) + '𝒳'.repeat(100)).every((word) => word.length <= 64)).toBe(true)
    expect(wordsOf('ab '.repeat(1_000_000)).length).toBeLessThanOrEqual(30_000)
    fc.assert(
      fc.property(fc.array(fc.nat(0x10ffff), { maxLength: 60 }), (codes) => {
        const text = String.fromCodePoint(...codes)
        expect(wordsOf(text).filter((word) => !/^[\p{L}\p{N}\p{M}]{1,64}$/u.test(word))).toEqual([])
      }),
    )
  })
})

test("text scores are BM25's", async () => {
  const texts = ['a b b c', 'b', 'a a a a d', 'c d e f g h', '']
  const store = await openInMemoryStore({ fingerprint: 'model-a', memoryWidth: 4, vectorWidth: 3 })
  await store.add(
    texts.map((text, index) => makeRow(`${index}`, { text })),
    { fingerprint: 'model-a' },
  )
  const documents = texts.map((text) => text.split(' ').filter((word) => word !== ''))
  const mean = documents.flat().length / documents.length
  const score = (document: readonly string[], query: readonly string[]) =>
    query
      .map((word) => {
        const df = documents.filter((other) => other.includes(word)).length
        const tf = document.filter((other) => other === word).length
        const idf = Math.log(1 + (documents.length - df + 0.5) / (df + 0.5))
        return (idf * tf * 2.2) / (tf + 1.2 * (0.25 + (0.75 * document.length) / mean))
      })
      .reduce((sum, value) => sum + value, 0)
  const found = await store.searchText('b, d; a b', { limit: 10 })
  const expected = documents
    .map((document, index) => ({ id: `${index}`, score: score(document, ['b', 'd', 'a']) }))
    .filter((one) => one.score > 0)
    .sort((a, b) => b.score - a.score)
  expect(found.map(({ id }) => id)).toEqual(expected.map(({ id }) => id))
  for (const [index, one] of found.entries()) expect(one.score).toBeCloseTo(expected[index]?.score ?? Number.NaN, 12)
})

describe('half precision', () => {
  test('every finite half is itself again', () => {
    const finite = Array.from({ length: 2 ** 16 }, (_, half) => half).filter((half) => (half & 0x7c00) !== 0x7c00)
    expect(finite.filter((half) => halfFromFloat(floatFromHalf(half)) !== half)).toEqual([])
  })

  test.each([
    [1, 0x3c00],
    [-2, 0xc000],
    [65_504, 0x7bff],
    [65_519.996, 0x7bff],
    [65_520, 0x7c00],
    [-1e30, 0xfc00],
    [2 ** -24, 1],
    [2 ** -25, 0],
    [2 ** -25 * 1.001, 1],
    [3 * 2 ** -25, 2],
    [2 ** -14, 0x0400],
    [1 + 2 ** -11, 0x3c00],
    [1 + 3 * 2 ** -11, 0x3c02],
    [0.1, 0x2e66],
    [-0, 0x8000],
  ])('%d rounds to the nearest, ties to even (IEEE 754)', (value, half) => {
    expect(halfFromFloat(value)).toBe(half)
  })
})

describe('migrations', () => {
  const steps = (done: number[]) => [2, 1, 3].map((from) => ({ from, run: async () => void done.push(from) }))

  test('run in order from the version that was found, each recorded before the next', async () => {
    const done: number[] = []
    const recorded: number[] = []
    await migrate('The store', 2, undefined, steps(done), async (version) => void recorded.push(version), 4)
    expect([done, recorded]).toEqual([
      [2, 3],
      [3, 4],
    ])
  })

  test('go on where an interruption left them', async () => {
    const done: number[] = []
    let version = 1
    const failing = steps(done).map((step) =>
      step.from === 2 ? { ...step, run: () => Promise.reject(new Error('cut off')) } : step,
    )
    const record = async (reached: number) => {
      version = reached
    }
    await expect(migrate('The store', version, undefined, failing, record, 4)).rejects.toThrow('cut off')
    expect(version).toBe(2)
    await migrate('The store', version, undefined, steps(done), record, 4)
    expect([done, version]).toEqual([[1, 2, 3], 4])
  })

  test.each([[5], [0], [1.5], [Number.NaN]])('refuse version %d', async (version) => {
    await expect(migrate('The store "kb"', version, undefined, [], async () => undefined, 4)).rejects.toThrow(
      /The store "kb".*version/,
    )
  })
})

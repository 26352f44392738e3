import { afterEach, describe, expect, test } from 'vitest'
import { createRandom } from '../../src/data/random.ts'
import { ClaraError } from '../../src/errors.ts'
import { maxSimilarity } from '../../src/store/late/similarity.ts'
import { dequantiseMemory, quantiseMemory } from '../../src/store/quantise.ts'
import type { Candidate, Float32Memory, RowFilter, Store, StoreDescription, StoreRow } from '../../src/store/store.ts'
import { makeRow } from './conformance.ts'

export const width = 64
export const description: StoreDescription = { fingerprint: 'model-a', memoryWidth: width, vectorWidth: 0 }
const { fingerprint } = description

const random = createRandom(11)

export function randomTokens(n: number): Float32Memory {
  return { dtype: 'float32', tokens: Float32Array.from({ length: n * width }, () => random.normal()), n, width }
}

/** At most `count` of a memory's tokens, with noise. */
export function askFor({ tokens, n: most }: Float32Memory, count: number, noise = 0.5): Float32Memory {
  const n = Math.min(count, most)
  const asked = Float32Array.from(tokens.subarray(0, n * width), (value) => value + noise * random.normal())
  return { dtype: 'float32', tokens: asked, n, width }
}

export function rowOf(id: string, memory: Float32Memory, parts: Partial<StoreRow> = {}): StoreRow {
  return makeRow(id, { memory: quantiseMemory(memory), vector: new Float32Array(), ...parts })
}

export function searchMemory(
  store: Store,
  query: Float32Memory,
  options: { limit: number; filter?: RowFilter; exact?: boolean },
): Promise<Candidate[]> {
  if (store.searchMemory === undefined) throw new TypeError('The driver has no searchMemory.')
  return store.searchMemory(query, { fingerprint, ...options })
}

/** What every driver that finds by memory must do. */
export function describeMemorySearch(name: string, open: (description: StoreDescription) => Promise<Store>): void {
  describe(`${name}: search by memory`, () => {
    const opened: Store[] = []
    async function storeWith(rows: readonly StoreRow[]): Promise<Store> {
      const store = await open(description)
      opened.push(store)
      await store.add(rows, { fingerprint })
      return store
    }
    afterEach(async () => {
      for (const store of opened.splice(0)) await store.close()
    })

    const memories = Array.from({ length: 30 }, (_, index) => randomTokens(1 + (index % 7)))
    const rows = memories.map((memory, index) =>
      rowOf(`d${index % 10}#${index}`, memory, { metadata: { even: index % 2 === 0 } }),
    )
    const asked = (index: number) => askFor(memories[index] ?? randomTokens(1), 1)

    test('finds the row that has the tokens asked for, and scores it by its memory', async () => {
      const store = await storeWith(rows)
      for (const index of [0, 6, 13, 29]) {
        const query = asked(index)
        const found = await searchMemory(store, query, { limit: 5 })
        expect(found).toHaveLength(5)
        const [best, second] = found
        expect(best).toMatchObject({ id: rows[index]?.id, documentId: rows[index]?.documentId })
        expect(best?.score).toBeGreaterThan(0.6)
        expect(best?.score).toBeLessThan(1)
        const memory = dequantiseMemory(rows[index]?.memory ?? randomTokens(1))
        expect(best?.score).toBeCloseTo(maxSimilarity(query.tokens, memory.tokens, width), 5)
        expect(second?.score).toBeLessThan(best?.score ?? 0)
      }
      const several = askFor(memories[20] ?? randomTokens(7), 7)
      expect((await searchMemory(store, several, { limit: 1 })).map(({ id }) => id)).toEqual([rows[20]?.id])
      expect(await searchMemory(store, asked(0), { limit: 100, exact: true })).toHaveLength(30)
    })

    test('considers the rows that pass the filter alone', async () => {
      const store = await storeWith(rows)
      const found = await searchMemory(store, asked(4), { limit: 100, filter: { metadata: { even: false } } })
      expect(found.map(({ id }) => id).sort()).toEqual(
        rows
          .filter(({ metadata }) => metadata.even === false)
          .map(({ id }) => id)
          .sort(),
      )
      expect(await searchMemory(store, asked(4), { limit: 3, filter: { documentIds: [] } })).toEqual([])
    })

    test('sees at once what was added, replaced and removed, before and after the files were joined', async () => {
      const store = await storeWith(rows.slice(0, 20))
      const first = async (index: number) => (await searchMemory(store, asked(index), { limit: 1 }))[0]?.id
      expect(await first(3)).toBe(rows[3]?.id)
      await store.add(rows.slice(20), { fingerprint })
      expect(await first(25)).toBe(rows[25]?.id)
      const changed = randomTokens(3)
      await store.add([rowOf(rows[3]?.id ?? '', changed, { contentHash: 'new' })], { fingerprint })
      expect((await searchMemory(store, askFor(changed, 3), { limit: 1 }))[0]?.id).toBe(rows[3]?.id)
      expect((await searchMemory(store, asked(3), { limit: 1 }))[0]?.score).toBeLessThan(0.6)
      await store.remove(['d5'])
      const all = () => searchMemory(store, asked(25), { limit: 100 })
      expect((await all()).map(({ documentId }) => documentId)).not.toContain('d5')
      expect(await all()).toHaveLength(27)
      await store.compact()
      expect(await all()).toHaveLength(27)
      expect(await first(8)).toBe(rows[8]?.id)
      await store.add(rows.slice(25, 26), { fingerprint })
      expect(await first(25)).toBe(rows[25]?.id)
    })

    test('keeps no vectors, and says so', async () => {
      const store = await storeWith(rows.slice(0, 2))
      expect((await store.get([rows[0]?.id ?? '']))[0]?.vector).toEqual(new Float32Array())
      const search = store.search(new Float32Array(), { fingerprint, limit: 1 })
      await expect(search).rejects.toThrow(/keeps no retrieval vectors/)
      const add = store.add([rowOf('x', randomTokens(1), { vector: Float32Array.of(1) })], { fingerprint })
      await expect(add).rejects.toThrow(/vector of row "x".*wrong length/)
    })

    test('finds nothing in an empty store, and refuses what is malformed', async () => {
      const store = await storeWith([])
      expect(await searchMemory(store, randomTokens(2), { limit: 3 })).toEqual([])
      const calls = [
        () => searchMemory(store, randomTokens(2), { limit: 0 }),
        () => searchMemory(store, { ...randomTokens(2), n: 3 }, { limit: 1 }),
        () => searchMemory(store, { ...randomTokens(2), n: 4, width: width / 2 }, { limit: 1 }),
        () => store.searchMemory?.(randomTokens(2), { fingerprint: 'model-b', limit: 1 }),
      ]
      for (const call of calls) await expect(call()).rejects.toThrow(ClaraError)
    })
  })
}

import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import type { Store, StoreDescription, StoreRow } from '../../src/store/store.ts'
import { makeRow } from './conformance.ts'

const description: StoreDescription = { fingerprint: 'model-a', memoryWidth: 4, vectorWidth: 16 }
const { fingerprint } = description

/** Numbers in [0, 1), always the same (mulberry32). */
function seeded(seed: number): () => number {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** What a driver with an approximate index must do beyond the contract. */
export function describeIndexGrowth(
  name: string,
  open: (description: StoreDescription, exactUpTo: number) => Promise<Store>,
): void {
  test(`${name}: as a store grows it gets an index by itself, which finds nearly all that comparing with every row finds`, async () => {
    await using store = await open(description, 1_000)
    const random = seeded(7)
    const vector = () => Float32Array.from({ length: 16 }, () => random() + random() + random() - 1.5)
    const batches = 17
    const size = 70
    for (let batch = 0; batch < batches; batch++) {
      const rows = Array.from({ length: size }, (_, index): StoreRow => {
        const number = batch * size + index
        return makeRow(`d${number}`, { vector: vector(), metadata: { number }, text: '' })
      })
      await store.add(rows, { fingerprint })
    }
    const deadline = performance.now() + 90_000
    while ((await store.stats()).index.kind === 'exact' && performance.now() < deadline) await sleep(200)
    const before = await store.stats()
    expect(before.index).toMatchObject({ kind: 'approximate' })
    expect(before.index.problem).toBeUndefined()
    await store.compact()
    expect((await store.stats()).index).toEqual({ kind: 'approximate', unindexed: 0 })

    let common = 0
    const queries = Array.from({ length: 20 }, vector)
    for (const query of queries) {
      const exact = await store.search(query, { fingerprint, limit: 10, exact: true })
      const found = await store.search(query, { fingerprint, limit: 10 })
      expect(found).toHaveLength(10)
      const ids = new Set(found.map(({ id }) => id))
      common += exact.filter(({ id }) => ids.has(id)).length
      for (const { id, score } of exact) {
        const other = found.find((candidate) => candidate.id === id)
        if (other !== undefined) expect(other.score).toBeCloseTo(score, 5)
      }
    }
    expect(common / (10 * queries.length)).toBeGreaterThan(0.95)

    // few rows pass the filter, far from the query in most cases: all of them are found
    const filter = { metadata: { number: { in: [3, 500, 1_189] } } }
    const some = await store.search(queries[0] ?? vector(), { fingerprint, limit: 10, filter })
    expect(some.map(({ id }) => id).sort()).toEqual(['d1189', 'd3', 'd500'])

    // what comes after the index was made is found at once, what goes is gone at once
    const late = vector()
    await store.add([makeRow('late', { vector: late })], { fingerprint })
    expect((await store.search(late, { fingerprint, limit: 1 })).map(({ id }) => id)).toEqual(['late'])
    await store.remove(['late'])
    expect((await store.search(late, { fingerprint, limit: 5 })).map(({ id }) => id)).not.toContain('late')
    expect(await store.search(late, { fingerprint, limit: 300 })).toHaveLength(300)
  }, 240_000)
}

import { expect, test } from 'vitest'
import { openInMemoryStore } from '../../src/store/memory.ts'
import { describeStore } from './conformance.ts'
import { describeSequences } from './sequences.ts'

describeStore('in memory', openInMemoryStore)
describeSequences('in memory', async () => ({ open: openInMemoryStore, durable: false }), 100)

test.each([
  [{ fingerprint: '', memoryWidth: 4, vectorWidth: 3 }, /fingerprint/],
  [{ fingerprint: 'a', memoryWidth: 0, vectorWidth: 3 }, /memoryWidth.*0/],
  [{ fingerprint: 'a', memoryWidth: 4, vectorWidth: 2.5 }, /vectorWidth.*2\.5/],
])('a store is not opened with the description %o', async (description, message) => {
  await expect(openInMemoryStore(description)).rejects.toThrow(message)
})

test('equal scores come in the order of their ids, and huge and tiny vectors keep their direction', async () => {
  await using store = await openInMemoryStore({ fingerprint: 'm', memoryWidth: 1, vectorWidth: 2 })
  const memory = { dtype: 'float32', tokens: Float32Array.of(1), n: 1, width: 1 } as const
  const rows = [
    ['c', 1e38, 1e38],
    ['a', 1e-38, 1e-38],
    ['b', 1, 1],
  ] as const
  await store.add(
    rows.map(([id, x, y]) => ({
      id,
      documentId: id,
      chunk: 0,
      text: id,
      metadata: {},
      contentHash: id,
      memory,
      vector: Float32Array.of(x, y),
    })),
    { fingerprint: 'm' },
  )
  const found = await store.search(Float32Array.of(2e38, 2e38), { fingerprint: 'm', limit: 3 })
  expect(found.map((candidate) => candidate.id)).toEqual(['a', 'b', 'c'])
  for (const candidate of found) expect(candidate.score).toBeCloseTo(1, 6)
})

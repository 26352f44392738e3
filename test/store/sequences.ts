import fc from 'fast-check'
import { expect, test } from 'vitest'
import { matchesFilter } from '../../src/store/filter.ts'
import type { DocumentRecord, RowFilter, Store, StoreDescription, StoreRow } from '../../src/store/store.ts'
import { wordsOf } from '../../src/store/words.ts'
import { makeRow, record } from './conformance.ts'

/** A place where a store can be opened again and again. */
export interface StorePlace {
  readonly open: (description: StoreDescription) => Promise<Store>
  /** What was written is still there after the store was closed, or its process ended. */
  readonly durable: boolean
}

const description: StoreDescription = { fingerprint: 'model-a', memoryWidth: 4, vectorWidth: 3 }
const { fingerprint } = description

/** The store as a test sees it: two maps. */
interface Model {
  readonly rows: Map<string, StoreRow>
  readonly records: Map<string, DocumentRecord>
}

type Step =
  | { readonly do: 'add'; readonly rows: readonly StoreRow[] }
  | { readonly do: 'complete'; readonly records: readonly DocumentRecord[] }
  | { readonly do: 'remove'; readonly documents: readonly string[] }
  | { readonly do: 'search'; readonly query: readonly number[]; readonly filter: RowFilter; readonly limit: number }
  | { readonly do: 'searchText'; readonly query: string; readonly filter: RowFilter }
  | { readonly do: 'reopen' | 'crash' | 'compact' | 'verify' }

const documentId = fc.constantFrom('d0', 'd1', "d'2", 'd\n3')
const word = fc.constantFrom('oslo', 'opera', 'water', 'house')
const component = fc.integer({ min: -9, max: 9 })
const direction = fc.tuple(component, component, component).filter((vector) => vector.some((value) => value !== 0))
const row = fc
  .record({
    document: documentId,
    chunk: fc.nat(3),
    version: fc.nat(2),
    words: fc.array(word, { maxLength: 4 }),
    vector: direction,
  })
  .map(({ document, chunk, version, words, vector }) =>
    makeRow(`${document}#${chunk}`, {
      documentId: document,
      chunk,
      text: words.join(' '),
      metadata: { version, first: words[0] ?? null },
      // the content decides the hash, as it does in use
      contentHash: JSON.stringify([version, words, vector]),
      vector: Float32Array.from(vector),
    }),
  )
const filter: fc.Arbitrary<RowFilter> = fc.oneof(
  fc.constant({}),
  fc.array(documentId, { maxLength: 2 }).map((documentIds) => ({ documentIds })),
  fc.nat(2).map((version) => ({ metadata: { version: { gte: version } } })),
  word.map((first) => ({ not: { metadata: { first } } })),
)
const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 5,
    arbitrary: fc
      .uniqueArray(row, { maxLength: 5, selector: ({ id }) => id })
      .map((rows) => ({ do: 'add', rows }) as const),
  },
  {
    weight: 2,
    arbitrary: fc
      .array(fc.tuple(documentId, fc.nat(3)), { maxLength: 2 })
      .map((pairs) => ({ do: 'complete', records: pairs.map(([id, chunks]) => record(id, { chunks })) }) as const),
  },
  {
    weight: 2,
    arbitrary: fc.array(documentId, { maxLength: 2 }).map((documents) => ({ do: 'remove', documents }) as const),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      do: fc.constant('search' as const),
      query: direction,
      filter,
      limit: fc.integer({ min: 1, max: 9 }),
    }),
  },
  { weight: 2, arbitrary: fc.record({ do: fc.constant('searchText' as const), query: word, filter }) },
  {
    weight: 3,
    arbitrary: fc.constantFrom('reopen', 'crash', 'compact', 'verify').map((name) => ({ do: name }) as const),
  },
)

/** Random sequences of everything that can happen to a store, against two maps. `place` makes an empty one. */
export function describeSequences(name: string, place: () => Promise<StorePlace>, runs: number): void {
  test(`${name}: after any sequence of calls, crashes and reopenings it holds what two maps would`, async () => {
    const property = fc.asyncProperty(fc.array(step, { minLength: 4, maxLength: 25 }), async (steps) => {
      const { open, durable } = await place()
      const opened = [await open(description)]
      const model: Model = { rows: new Map(), records: new Map() }
      try {
        for (const one of steps) {
          const store = opened.at(-1) as Store
          if (one.do !== 'reopen' && one.do !== 'crash') {
            await take(store, one, model)
            continue
          }
          // A crash closes nothing: what the old handle does in the background goes on beside the new one.
          if (one.do === 'reopen') await store.close()
          opened.push(await open(description))
          if (!durable) {
            model.rows.clear()
            model.records.clear()
          }
        }
        await compare(opened.at(-1) as Store, model)
      } finally {
        for (const store of opened) await store.close()
      }
    })
    await fc.assert(property, { numRuns: runs })
  })
}

async function take(store: Store, one: Step, { rows, records }: Model): Promise<void> {
  if (one.do === 'add') {
    const present = one.rows.map(({ id }) => rows.get(id)?.contentHash)
    const unchanged = one.rows.filter(({ contentHash }, index) => present[index] === contentHash).length
    const added = present.filter((hash) => hash === undefined).length
    const expected = { added, unchanged, replaced: one.rows.length - added - unchanged }
    expect(await store.add(one.rows, { fingerprint })).toEqual(expected)
    for (const given of one.rows) rows.set(given.id, given)
  } else if (one.do === 'complete') {
    await store.putDocuments(one.records)
    for (const given of one.records) records.set(given.documentId, given)
    for (const { documentId } of one.records) {
      const chunks = records.get(documentId)?.chunks ?? 0
      for (const kept of [...rows.values()])
        if (kept.documentId === documentId && kept.chunk >= chunks) rows.delete(kept.id)
    }
  } else if (one.do === 'remove') {
    const gone = [...rows.values()].filter((kept) => one.documents.includes(kept.documentId))
    expect(await store.remove(one.documents)).toBe(gone.length)
    for (const { id } of gone) rows.delete(id)
    for (const id of one.documents) records.delete(id)
  } else if (one.do === 'search') {
    const scores = [...rows.values()]
      .filter((kept) => matchesFilter(kept, one.filter))
      .map(({ id, vector }) => ({ id, score: cosine(vector, one.query) }))
    const found = await store.search(Float32Array.from(one.query), {
      fingerprint,
      limit: one.limit,
      filter: one.filter,
    })
    const best = scores.map(({ score }) => score).sort((a, b) => b - a)
    expect(found).toHaveLength(Math.min(one.limit, scores.length))
    for (const [index, { id, score }] of found.entries()) {
      expect(score).toBeCloseTo(best[index] ?? Number.NaN, 5)
      expect(score).toBeCloseTo(scores.find((expected) => expected.id === id)?.score ?? Number.NaN, 5)
    }
  } else if (one.do === 'searchText') {
    const expected = [...rows.values()]
      .filter((kept) => wordsOf(kept.text).includes(one.query) && matchesFilter(kept, one.filter))
      .map(({ id }) => id)
    const found = await store.searchText(one.query, { limit: 50, filter: one.filter })
    expect(found.map(({ id }) => id).sort()).toEqual(expected.sort())
  } else if (one.do === 'compact') {
    await store.compact()
  } else if (one.do === 'verify') {
    const lacking = [...records.values()].filter(({ documentId, chunks }) => {
      const present = new Set(
        [...rows.values()].filter((kept) => kept.documentId === documentId).map(({ chunk }) => chunk),
      )
      return Array.from({ length: chunks }, (_, chunk) => chunk).some((chunk) => !present.has(chunk))
    })
    const { rows: read, damaged } = await store.verify()
    expect(read).toBe(rows.size)
    expect(damaged.map((damage) => damage.documentId).sort()).toEqual(lacking.map((one) => one.documentId).sort())
  }
}

async function compare(store: Store, { rows, records }: Model): Promise<void> {
  const ids = [...rows.keys()].sort()
  const found: StoreRow[] = []
  for await (const one of store.iterate()) found.push(one)
  expect(found.map(({ id }) => id).sort()).toEqual(ids)
  const comparable = ({ vector: _, ...rest }: StoreRow) => rest
  const got = await store.get(ids)
  expect(got.map((one) => one && comparable(one))).toEqual(ids.map((id) => comparable(rows.get(id) as StoreRow)))
  const kept: DocumentRecord[] = []
  for await (const one of store.documents()) kept.push(one)
  const byId = (a: DocumentRecord, b: DocumentRecord) => (a.documentId < b.documentId ? -1 : 1)
  expect(kept.sort(byId)).toEqual([...records.values()].sort(byId))
  expect(await store.stats()).toMatchObject({ chunks: rows.size, documents: records.size })
}

function cosine(a: ArrayLike<number>, b: readonly number[]): number {
  const values = Array.from(a)
  return (
    values.reduce((sum, value, index) => sum + value * (b[index] ?? 0), 0) / (Math.hypot(...values) * Math.hypot(...b))
  )
}

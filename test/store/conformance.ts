import fc from 'fast-check'
import { afterEach, describe, expect, test } from 'vitest'
import { ClaraError } from '../../src/errors.ts'
import type { Store, StoreDescription, StoreRow } from '../../src/store/store.ts'

const description: StoreDescription = { fingerprint: 'model-a', memoryWidth: 4, vectorWidth: 3 }
const fingerprint = description.fingerprint

/** A well-formed row; what a test is about is given, the rest is filled in. */
function makeRow(id: string, parts: Partial<StoreRow> = {}): StoreRow {
  return {
    id,
    documentId: id.split('#')[0] ?? id,
    chunk: 0,
    text: `text of ${id}`,
    metadata: { title: `title of ${id}` },
    contentHash: `hash of ${id}`,
    memory: { dtype: 'float32', tokens: Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8), n: 2, width: 4 },
    vector: Float32Array.of(1, 0, 0),
    ...parts,
  }
}

async function idsOf(rows: AsyncIterable<StoreRow>): Promise<string[]> {
  const ids: string[] = []
  for await (const row of rows) ids.push(row.id)
  return ids.sort()
}

/**
 * What every driver of the store must do.
 *
 * @param open Opens an empty store with this description; called once per test.
 */
export function describeStore(name: string, open: (description: StoreDescription) => Promise<Store>): void {
  describe(`${name}: the store's contract`, () => {
    const opened: Store[] = []

    async function openStore(): Promise<Store> {
      const store = await open(description)
      opened.push(store)
      return store
    }

    async function storeWith(...rows: StoreRow[]): Promise<Store> {
      const store = await openStore()
      await store.add(rows, { fingerprint })
      return store
    }

    afterEach(async () => {
      for (const store of opened.splice(0)) await store.close()
    })

    test('tells its description', async () => {
      expect((await openStore()).description).toEqual(description)
    })

    test('gives back a row as it was added, text, metadata, memory and vector', async () => {
      const rows = [
        makeRow('plain'),
        makeRow('doc/ä "quoted" \'; --#3', {
          chunk: 3,
          text: 'Łódź\n\t"quotes" \\ <MEM0> 🚀 \u0007',
          metadata: { year: 1999, draft: false, none: null, deep: { list: [1, 'two', [true]] }, '': 'empty key' },
          memory: {
            dtype: 'int8',
            tokens: Int8Array.of(-127, 127, 0, 1, 2, 3, -4, 5, 0, 0, 0, 0),
            scales: Float32Array.of(0.5, 1e-9, 0),
            n: 3,
            width: 4,
          },
          vector: Float32Array.of(-0.25, 1e-7, 3e10),
        }),
        makeRow('empty', { text: '', metadata: {} }),
      ]
      const store = await storeWith(...rows)
      expect(await store.get(rows.map((row) => row.id))).toEqual(rows)
    })

    test('answers get in the order of the ids, with undefined for an unknown one', async () => {
      const store = await storeWith(makeRow('a'), makeRow('b'))
      const rows = await store.get(['b', 'nobody', 'a', 'b'])
      expect(rows.map((row) => row?.id)).toEqual(['b', undefined, 'a', 'b'])
      expect(await store.get([])).toEqual([])
    })

    test('keeps nothing of the arrays it was given or gave', async () => {
      const row = makeRow('a')
      const store = await storeWith(row)
      row.memory.tokens.fill(0)
      row.vector.fill(0)
      const [first] = await store.get(['a'])
      first?.memory.tokens.fill(9)
      first?.vector.fill(9)
      expect(await store.get(['a'])).toEqual([makeRow('a')])
    })

    test('adds the same content once', async () => {
      const store = await openStore()
      const rows = [makeRow('a'), makeRow('b')]
      expect(await store.add(rows, { fingerprint })).toEqual({ added: 2, replaced: 0, unchanged: 0 })
      expect(await store.add([...rows, makeRow('c'), makeRow('c')], { fingerprint })).toEqual({
        added: 1,
        replaced: 0,
        unchanged: 3,
      })
      expect(await store.count()).toBe(3)
      expect(await store.add([], { fingerprint })).toEqual({ added: 0, replaced: 0, unchanged: 0 })
    })

    test('leaves a row with the same hash alone, and replaces one with another hash in text, memory and search', async () => {
      const store = await storeWith(makeRow('a'), makeRow('b', { vector: Float32Array.of(1, 1, 0) }))
      await store.add([makeRow('a', { text: 'ignored' })], { fingerprint })
      expect((await store.get(['a']))[0]?.text).toBe('text of a')
      const changed = makeRow('a', {
        documentId: 'elsewhere',
        text: 'new text',
        contentHash: 'new hash',
        vector: Float32Array.of(0, 0, 1),
        memory: { dtype: 'float32', tokens: Float32Array.of(8, 7, 6, 5), n: 1, width: 4 },
      })
      expect(await store.add([changed], { fingerprint })).toEqual({ added: 0, replaced: 1, unchanged: 0 })
      expect(await store.get(['a'])).toEqual([changed])
      expect(await store.count()).toBe(2)
      const found = await store.search(Float32Array.of(1, 0, 0), { fingerprint, limit: 2 })
      expect(found.map((candidate) => [candidate.id, candidate.documentId])).toEqual([
        ['b', 'b'],
        ['a', 'elsewhere'],
      ])
    })

    test('removes whole documents, and only those', async () => {
      const store = await storeWith(makeRow('a#0'), makeRow('a#1', { chunk: 1 }), makeRow('b#0'), makeRow('c#0'))
      expect(await store.remove(['a', 'c', 'unknown'])).toBe(3)
      expect(await store.remove(['a'])).toBe(0)
      expect(await store.remove([])).toBe(0)
      expect(await idsOf(store.iterate())).toEqual(['b#0'])
      expect(await store.get(['a#0'])).toEqual([undefined])
      const found = await store.search(Float32Array.of(1, 0, 0), { fingerprint, limit: 10 })
      expect(found.map((candidate) => candidate.id)).toEqual(['b#0'])
      expect(await store.add([makeRow('a#0')], { fingerprint })).toEqual({ added: 1, replaced: 0, unchanged: 0 })
    })

    test('finds by cosine, best first, whatever the lengths of the vectors', async () => {
      const store = await storeWith(
        makeRow('same', { vector: Float32Array.of(0.003, 0.004, 0) }),
        makeRow('near', { vector: Float32Array.of(400, 300, 0) }),
        makeRow('across', { vector: Float32Array.of(0, 0, 5) }),
        makeRow('opposite', { vector: Float32Array.of(-30, -40, 0) }),
      )
      const found = await store.search(Float32Array.of(3, 4, 0), { fingerprint, limit: 10 })
      expect(found.map((candidate) => candidate.id)).toEqual(['same', 'near', 'across', 'opposite'])
      for (const [index, score] of [1, 0.96, 0, -1].entries()) expect(found[index]?.score).toBeCloseTo(score, 5)
      const best = await store.search(Float32Array.of(3, 4, 0), { fingerprint, limit: 1 })
      expect(best.map((candidate) => candidate.id)).toEqual(['same'])
    })

    test('finds nothing in an empty store', async () => {
      const store = await openStore()
      expect(await store.search(Float32Array.of(1, 0, 0), { fingerprint, limit: 3 })).toEqual([])
      expect(await store.count()).toBe(0)
      expect(await idsOf(store.iterate())).toEqual([])
    })

    test('agrees with a brute-force search on any small store', async () => {
      const component = fc.integer({ min: -9, max: 9 })
      const direction = fc.tuple(component, component, component).filter((vector) => vector.some((x) => x !== 0))
      const property = fc.asyncProperty(
        fc.array(direction, { maxLength: 12 }),
        direction,
        fc.integer({ min: 1, max: 15 }),
        async (vectors, query, limit) => {
          const store = await openStore()
          const rows = vectors.map((vector, index) => makeRow(`r${index}`, { vector: Float32Array.from(vector) }))
          await store.add(rows, { fingerprint })
          const expected = vectors.map((vector) => cosine(vector, query)).sort((a, b) => b - a)
          const found = await store.search(Float32Array.from(query), { fingerprint, limit })
          expect(found.length).toBe(Math.min(limit, vectors.length))
          for (const [index, candidate] of found.entries()) {
            expect(candidate.score).toBeCloseTo(expected[index] ?? Number.NaN, 5)
            expect(candidate.score).toBeCloseTo(cosine(vectors[Number(candidate.id.slice(1))] ?? [], query), 5)
          }
        },
      )
      await fc.assert(property, { numRuns: 20 })
    })

    test('filters search, count and iteration alike', async () => {
      const store = await storeWith(
        makeRow('a#0', { metadata: { language: 'en', year: 2001 } }),
        makeRow('a#1', { metadata: { language: 'no', year: 2001 } }),
        makeRow('b#0', { metadata: { language: 'en', year: null } }),
        makeRow('c#0', { metadata: {} }),
      )
      const cases = [
        [{}, ['a#0', 'a#1', 'b#0', 'c#0']],
        [{ documentIds: ['a', 'c'] }, ['a#0', 'a#1', 'c#0']],
        [{ documentIds: [] }, []],
        [{ metadata: { language: 'en' } }, ['a#0', 'b#0']],
        [{ metadata: { year: 2001, language: 'en' } }, ['a#0']],
        [{ metadata: { year: '2001' } }, []],
        [{ metadata: { year: null } }, ['b#0']],
        [{ metadata: { toString: 'x' } }, []],
        [{ documentIds: ['b'], metadata: { language: 'en' } }, ['b#0']],
      ] as const
      for (const [filter, expected] of cases) {
        const found = await store.search(Float32Array.of(1, 0, 0), { fingerprint, limit: 10, filter })
        expect(found.map((candidate) => candidate.id).sort()).toEqual(expected)
        expect(await store.count(filter)).toBe(expected.length)
        expect(await idsOf(store.iterate(filter))).toEqual(expected)
      }
    })

    test('iterates over whole rows, each once', async () => {
      const rows = Array.from({ length: 50 }, (_, index) => makeRow(`d#${index}`, { chunk: index }))
      const store = await storeWith(...rows)
      const seen: StoreRow[] = []
      for await (const row of store.iterate()) seen.push(row)
      expect(seen.sort((a, b) => a.chunk - b.chunk)).toEqual(rows)
    })

    test("refuses another model's rows and queries, naming both fingerprints, and keeps nothing of them", async () => {
      const store = await openStore()
      const other = { fingerprint: 'model-b' }
      for (const attempt of [
        store.add([makeRow('a')], other),
        store.search(Float32Array.of(1, 0, 0), { ...other, limit: 1 }),
      ]) {
        const error = await attempt.then(
          () => undefined,
          (reason: unknown) => reason,
        )
        expect(error).toBeInstanceOf(ClaraError)
        expect((error as ClaraError).message).toContain('"model-a"')
        expect((error as ClaraError).message).toContain('"model-b"')
      }
      expect(await store.count()).toBe(0)
    })

    const four = Float32Array.of(1, 2, 3, 4)
    const malformed: [what: string, parts: Partial<StoreRow>, message: RegExp][] = [
      ['an empty id', { id: '' }, /A row's id is missing/],
      ['an empty document id', { documentId: '' }, /documentId/],
      ['no content hash', { contentHash: '' }, /contentHash/],
      ['a fractional chunk number', { chunk: 0.5 }, /chunk number of row "bad"/],
      ['a negative chunk number', { chunk: -1 }, /chunk number/],
      ['text that is no string', { text: 7 as unknown as string }, /text of row "bad"/],
      ['metadata that is a list', { metadata: [] as unknown as StoreRow['metadata'] }, /metadata of row "bad"/],
      ['a metadata value that JSON drops', { metadata: { a: [undefined as unknown as null] } }, /metadata\.a\[0\]/],
      ['a metadata number that is not finite', { metadata: { a: { b: Number.NaN } } }, /metadata\.a\.b/],
      ['a date in the metadata', { metadata: { when: new Date(0) as unknown as string } }, /metadata\.when/],
      ['memory of another width', { memory: { dtype: 'float32', tokens: four, n: 2, width: 2 } }, /width.*4.*2/],
      ['memory that is too short', { memory: { dtype: 'float32', tokens: four, n: 2, width: 4 } }, /8 numbers.*4/],
      ['no memory tokens', { memory: { dtype: 'float32', tokens: new Float32Array(), n: 0, width: 4 } }, /from 1/],
      [
        'memory that is not finite',
        { memory: { dtype: 'float32', tokens: Float32Array.of(1, 2, Number.NaN, 4), n: 1, width: 4 } },
        /memory of row "bad".*NaN at position 2/,
      ],
      [
        'int8 memory in a float32 array',
        { memory: { dtype: 'int8', tokens: four as unknown as Int8Array, scales: Float32Array.of(1), n: 1, width: 4 } },
        /element type/,
      ],
      [
        'too few scales',
        { memory: { dtype: 'int8', tokens: new Int8Array(8), scales: Float32Array.of(1), n: 2, width: 4 } },
        /scales of row "bad".*2 numbers.*1/,
      ],
      [
        'a negative scale',
        { memory: { dtype: 'int8', tokens: new Int8Array(4), scales: Float32Array.of(-1), n: 1, width: 4 } },
        /negative.*-1/,
      ],
      [
        'an infinite scale',
        { memory: { dtype: 'int8', tokens: new Int8Array(4), scales: Float32Array.of(Infinity), n: 1, width: 4 } },
        /Infinity/,
      ],
      ['a vector of another length', { vector: Float32Array.of(1, 2) }, /vector of row "bad".*3 numbers.*2 numbers/],
      ['a vector that is not finite', { vector: Float32Array.of(1, Infinity, 0) }, /Infinity at position 1/],
      ['a vector of zeros', { vector: new Float32Array(3) }, /all zeros/],
    ]
    test.each(malformed)('refuses a row with %s, and with it the whole call', async (_, parts, message) => {
      const store = await openStore()
      const attempt = store.add([makeRow('good'), makeRow('bad', parts)], { fingerprint })
      await expect(attempt).rejects.toThrow(ClaraError)
      await expect(attempt).rejects.toThrow(message)
      expect(await store.count()).toBe(0)
    })

    test('refuses one id twice in a call with different content', async () => {
      const store = await openStore()
      const attempt = store.add([makeRow('a'), makeRow('a', { contentHash: 'other' })], { fingerprint })
      await expect(attempt).rejects.toThrow(/Row "a" comes twice.*"other"/)
      expect(await store.count()).toBe(0)
    })

    test.each([
      ['of another length', Float32Array.of(1), 1, /query vector.*3 numbers/],
      ['of zeros', new Float32Array(3), 1, /query vector is all zeros/],
      ['that is not finite', Float32Array.of(Number.NaN, 0, 1), 1, /query vector.*NaN/],
      ['with limit 0', Float32Array.of(1, 0, 0), 0, /limit.*0/],
      ['with limit 1.5', Float32Array.of(1, 0, 0), 1.5, /limit.*1\.5/],
    ])('refuses a query %s', async (_, vector, limit, message) => {
      const store = await storeWith(makeRow('a'))
      const attempt = store.search(vector, { fingerprint, limit })
      await expect(attempt).rejects.toThrow(ClaraError)
      await expect(attempt).rejects.toThrow(message)
    })

    test('answers no call after close, which may be repeated', async () => {
      const store = await storeWith(makeRow('a'))
      await store.close()
      await store.close()
      const calls = [
        () => store.add([], { fingerprint }),
        () => store.get([]),
        () => store.remove([]),
        () => store.count(),
        () => store.search(Float32Array.of(1, 0, 0), { fingerprint, limit: 1 }),
        () => idsOf(store.iterate()),
      ]
      for (const call of calls) await expect(call()).rejects.toThrow(/store is closed/)
    })

    test('is closed by leaving its `await using` block', async () => {
      const store = await openStore()
      await store[Symbol.asyncDispose]()
      await expect(store.count()).rejects.toThrow(/store is closed/)
    })
  })
}

function cosine(a: readonly number[], b: readonly number[]): number {
  return a.reduce((sum, value, index) => sum + value * (b[index] ?? 0), 0) / (Math.hypot(...a) * Math.hypot(...b))
}

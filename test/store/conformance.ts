import fc from 'fast-check'
import { afterAll, afterEach, describe, expect, test } from 'vitest'
import { ClaraError } from '../../src/errors.ts'
import { matchesFilter } from '../../src/store/filter.ts'
import type { DocumentRecord, RowFilter, Store, StoreDescription, StoreRow } from '../../src/store/store.ts'

const description: StoreDescription = { fingerprint: 'model-a', memoryWidth: 4, vectorWidth: 3 }
const fingerprint = description.fingerprint

export function record(documentId: string, parts: Partial<DocumentRecord> = {}): DocumentRecord {
  return { documentId, contentHash: `hash of ${documentId}`, chunks: 1, details: null, ...parts }
}

/** A well-formed row; what a test is about is given, the rest is filled in. */
export function makeRow(id: string, parts: Partial<StoreRow> = {}): StoreRow {
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

/** The row as it is given back: its vector at length 1. */
function kept(row: StoreRow): StoreRow {
  const length = Math.hypot(...row.vector)
  return { ...row, vector: Float32Array.from(row.vector, (value) => value / length) }
}

async function all<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
  const list: Item[] = []
  for await (const item of items) list.push(item)
  return list
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

    /** One empty store for all tests of what is refused: nothing is ever written to it. */
    let untouched: Promise<Store> | undefined
    function emptyStore(): Promise<Store> {
      untouched ??= open(description)
      return untouched
    }

    afterEach(async () => {
      for (const store of opened.splice(0)) await store.close()
    })
    afterAll(async () => (await untouched)?.close())

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
          vector: Float32Array.of(-0.6, 0, 0.8),
        }),
        makeRow('half', {
          memory: { dtype: 'float16', tokens: Uint16Array.of(0, 0x3c00, 0x8001, 0x7bff), n: 1, width: 4 },
        }),
        makeRow('empty', { text: '', metadata: {} }),
      ]
      const store = await storeWith(...rows)
      expect(await store.get(rows.map((row) => row.id))).toEqual(rows.map(kept))
      expect(await store.memories(['half', 'nobody', 'plain', 'plain'])).toEqual([
        rows[2]?.memory,
        undefined,
        rows[0]?.memory,
        rows[0]?.memory,
      ])
      expect(await store.contentHashes(['empty', 'nobody', 'empty'])).toEqual([
        'hash of empty',
        undefined,
        'hash of empty',
      ])
    })

    test('keeps the direction of a vector, however long or short, at length 1', async () => {
      const store = await storeWith(
        makeRow('long', { vector: Float32Array.of(-3e38, 0, 3e38) }),
        makeRow('short', { vector: Float32Array.of(3e-38, -4e-38, 0) }),
      )
      const [long, short] = await store.get(['long', 'short'])
      for (const [index, value] of [-Math.SQRT1_2, 0, Math.SQRT1_2].entries())
        expect(long?.vector[index]).toBeCloseTo(value, 6)
      for (const [index, value] of [0.6, -0.8, 0].entries()) expect(short?.vector[index]).toBeCloseTo(value, 6)
    })

    test('keeps strings that databases are prone to alter', async () => {
      const strange = [
        "'; DROP TABLE rows; --",
        '\u0000\u0001\u0002',
        '\\x00 %_ $1 `a`',
        'two\nlines\r\n\ttab',
        '\ufeffü\u0308 🤷🏽‍♀️',
      ]
      const rows = strange.map((name) =>
        makeRow(`row ${name}`, {
          documentId: name,
          text: name,
          metadata: { [name]: name, list: [name] },
          contentHash: name,
        }),
      )
      const store = await storeWith(...rows)
      await store.putDocuments(strange.map((name) => record(name, { contentHash: name, details: { path: [name] } })))
      expect(await store.get(rows.map(({ id }) => id))).toEqual(rows)
      for (const [index, name] of strange.entries()) {
        const id = rows[index]?.id
        expect(await all(store.documents([name]))).toEqual([
          record(name, { contentHash: name, details: { path: [name] } }),
        ])
        for (const filter of [
          { documentIds: [name] },
          { metadata: { [name]: name } },
          { metadata: { [name]: { in: [1, name] } } },
          { metadata: { [name]: { gte: name, lte: name } } },
          { documentIds: [name], not: { metadata: { [name]: { gt: name } } } },
        ] as RowFilter[]) {
          expect(await idsOf(store.iterate(filter))).toEqual([id])
          const found = await store.search(Float32Array.of(1, 0, 0), { fingerprint, limit: 9, filter })
          expect(found.map((candidate) => candidate.id)).toEqual([id])
        }
        await expect(store.searchText(name, { limit: 9 })).resolves.toBeInstanceOf(Array)
      }
      expect(await store.remove([strange[0] ?? ''])).toBe(1)
      expect(await store.count()).toBe(strange.length - 1)
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
      await fc.assert(property, { numRuns: 10 })
    })

    test('filters search, count and iteration alike', async () => {
      const store = await storeWith(
        makeRow('a#0', { metadata: { language: 'en', year: 2001 } }),
        makeRow('a#1', { metadata: { language: 'no', year: 2001 } }),
        makeRow('b#0', { metadata: { language: 'en', year: null } }),
        makeRow('c#0', { metadata: {} }),
      )
      const cases: [RowFilter, string[]][] = [
        [{}, ['a#0', 'a#1', 'b#0', 'c#0']],
        [{ documentIds: ['a', 'c'] }, ['a#0', 'a#1', 'c#0']],
        [{ documentIds: [] }, []],
        [{ metadata: { language: 'en' } }, ['a#0', 'b#0']],
        [{ metadata: { year: 2001, language: 'en' } }, ['a#0']],
        [{ metadata: { year: '2001' } }, []],
        [{ metadata: { year: null } }, ['b#0']],
        [{ metadata: { toString: 'x' } }, []],
        [{ documentIds: ['b'], metadata: { language: 'en' } }, ['b#0']],
        [{ metadata: { language: { in: ['no', 'de', 7] } } }, ['a#1']],
        [{ metadata: { language: { in: [] } } }, []],
        [{ metadata: { year: {} } }, ['a#0', 'a#1', 'b#0']],
        [{ metadata: { year: { gt: 2000.5 } } }, ['a#0', 'a#1']],
        [{ metadata: { year: { gt: 2001 } } }, []],
        [{ metadata: { year: { gte: 2001, lte: 2001 } } }, ['a#0', 'a#1']],
        [{ metadata: { year: { lt: 2001 } } }, []],
        [{ metadata: { year: { gt: '' } } }, []],
        [{ metadata: { language: { gte: 'en', lt: 'no' } } }, ['a#0', 'b#0']],
        [{ metadata: { language: { gt: 'e' } } }, ['a#0', 'a#1', 'b#0']],
        [{ and: [] }, ['a#0', 'a#1', 'b#0', 'c#0']],
        [{ or: [] }, []],
        [{ or: [{ documentIds: ['c'] }, { metadata: { language: 'no' } }] }, ['a#1', 'c#0']],
        [{ and: [{ documentIds: ['a', 'b'] }, { metadata: { language: 'en' } }] }, ['a#0', 'b#0']],
        [{ not: { metadata: { language: 'en' } } }, ['a#1', 'c#0']],
        [{ documentIds: ['a'], not: { or: [{ metadata: { language: 'en' } }, { documentIds: ['b'] }] } }, ['a#1']],
      ]
      for (const [filter, expected] of cases) {
        const found = await store.search(Float32Array.of(1, 0, 0), { fingerprint, limit: 10, filter })
        expect(found.map((candidate) => candidate.id).sort()).toEqual(expected)
        expect(await store.count(filter)).toBe(expected.length)
        expect(await idsOf(store.iterate(filter))).toEqual(expected)
      }
    })

    test('means by any filter what its plain evaluation means', async () => {
      const keys = fc.constantFrom('a', 'b', "it's", 'new\nline')
      const text = fc.constantFrom('', 'x', 'xy', "o'clock", 'é', '😀', '\uffff', 'Z')
      const number = fc.oneof(fc.integer({ min: -3, max: 3 }), fc.double({ noNaN: true, noDefaultInfinity: true }))
      const scalar = fc.oneof(text, number, fc.boolean(), fc.constant(null))
      const metadata = fc.dictionary(keys, fc.oneof(scalar, fc.constantFrom(['x'], { a: 1 })), {
        maxKeys: 4,
        noNullPrototype: true,
      })
      const bound = fc.oneof(text, number)
      const condition = fc.record(
        { in: fc.array(scalar, { maxLength: 3 }), gt: bound, gte: bound, lt: bound, lte: bound },
        { requiredKeys: [], noNullPrototype: true },
      )
      const filterOf = (depth: number): fc.Arbitrary<RowFilter> => {
        const part = depth === 0 ? fc.constant({}) : filterOf(depth - 1)
        const parts = {
          documentIds: fc.array(fc.constantFrom('d0', 'd1', 'd2', 'd3'), { minLength: 1, maxLength: 4 }),
          metadata: fc.dictionary(keys, fc.oneof(scalar, condition), { maxKeys: 2, noNullPrototype: true }),
          and: fc.array(part, { maxLength: 2 }),
          or: fc.array(part, { minLength: 1, maxLength: 3 }),
          not: part,
        }
        // one or two conditions each: with more, hardly a row would pass
        const one = Object.entries(parts).map(([name, value]) => value.map((given) => ({ [name]: given }) as RowFilter))
        return fc.tuple(fc.oneof(...one), fc.oneof(...one)).map(([first, second]) => ({ ...first, ...second }))
      }
      const filter = filterOf(2)
      const property = fc.asyncProperty(
        fc.array(metadata, { minLength: 1, maxLength: 12 }),
        fc.array(filter, { minLength: 5, maxLength: 10 }),
        async (values, filters) => {
          const rows = values.map((value, index) => makeRow(`d${index % 4}#${index}`, { metadata: value }))
          const store = await storeWith(...rows)
          for (const one of filters) {
            const expected = rows.filter((row) => matchesFilter(row, one)).map(({ id }) => id)
            expect(await idsOf(store.iterate(one))).toEqual(expected.sort())
            expect(await store.count(one)).toBe(expected.length)
            const found = await store.search(Float32Array.of(1, 0, 0), { fingerprint, limit: 20, filter: one })
            expect(found.map(({ id }) => id).sort()).toEqual(expected)
            const read = await store.searchText('text', { limit: 20, filter: one })
            expect(read.map(({ id }) => id).sort()).toEqual(expected)
          }
        },
      )
      await fc.assert(property, { numRuns: 8 })
    })

    test.each([
      ['a list', [], /malformed at filter\./],
      ['an unknown key', { documentsIds: ['a'] }, /documentsIds/],
      ['ids that are no list', { documentIds: 'a' }, /filter\.documentIds/],
      ['an id that is no string', { documentIds: ['a', 7] }, /filter\.documentIds\[1\].*7/],
      ['a list as value', { metadata: { a: ['x'] } }, /filter\.metadata\["a"\]/],
      ['an unknown condition', { metadata: { a: { like: 'x%' } } }, /in, gt, gte, lt, lte.*like/],
      ['a number that is not finite', { metadata: { a: { gt: Infinity } } }, /filter\.metadata\["a"\]\.gt/],
      ['a range of booleans', { metadata: { a: { lte: true } } }, /a number or a string.*true/],
      ['half a surrogate pair', { metadata: { a: '\ud800' } }, /filter\.metadata\["a"\]/],
      ['a filter that is none, deep inside', { or: [{ not: { and: [3] } }] }, /filter\.or\[0\]\.not\.and\[0\]/],
    ])('refuses as a filter %s', async (_, filter, message) => {
      const store = await emptyStore()
      const given = filter as unknown as RowFilter
      const calls = [
        () => store.count(given),
        () => store.search(Float32Array.of(1, 0, 0), { fingerprint, limit: 1, filter: given }),
        () => store.searchText('a', { limit: 1, filter: given }),
        () => idsOf(store.iterate(given)),
      ]
      for (const call of calls) {
        await expect(call()).rejects.toThrow(ClaraError)
        await expect(call()).rejects.toThrow(message)
      }
    })

    test('finds text by its words: rare ones count more, common ones less, and more in a shorter text', async () => {
      const store = await storeWith(
        makeRow('opera', { text: 'The opera house of Oslo stands by the water.' }),
        makeRow('water', { text: 'The water of the lake, and the water of the sea.' }),
        makeRow('short', { text: 'Oslo.' }),
        makeRow('long', { text: `Oslo ${'and the city of the north '.repeat(20)}` }),
        makeRow('crème', { text: 'Crème brûlée, ÅNGSTRÖM, Straße; naïve ΑΘΗΝΑ' }),
        makeRow('kyoto', { text: '京都は日本の都市です。' }),
        makeRow('none', { text: '' }),
      )
      const find = async (query: string, filter: RowFilter = {}) =>
        (await store.searchText(query, { limit: 10, filter })).map(({ id }) => id)
      expect(await find('oslo')).toEqual(['short', 'opera', 'long'])
      expect((await find('the opera'))[0]).toBe('opera')
      expect((await find('water'))[0]).toBe('water')
      expect(await find('creme BRULEE')).toEqual(['crème'])
      expect(await find('angstrom αθηνα')).toEqual(['crème'])
      expect(await find('京都')).toEqual(['kyoto'])
      expect(await find('oslo', { documentIds: ['long', 'none'] })).toEqual(['long'])
      expect(await find('nowhere')).toEqual([])
      expect(await find(' … ?! ')).toEqual([])
      expect(await find('"opera" AND (oslo OR -water) ~2 text:*')).toContain('opera')
      const scored = await store.searchText('oslo water', { limit: 3 })
      expect(scored).toHaveLength(3)
      expect(scored.every(({ score, documentId, id }) => score > 0 && documentId === id)).toBe(true)
      expect(scored.map(({ score }) => score)).toEqual(scored.map(({ score }) => score).sort((a, b) => b - a))
      await store.add([makeRow('opera', { text: 'Nothing of the kind.', contentHash: 'new' })], { fingerprint })
      await store.remove(['short'])
      expect(await find('oslo')).toEqual(['long'])
    })

    test('keeps the records of complete documents, and drops the rows beyond their end', async () => {
      const rows = [0, 1, 2, 3].map((chunk) => makeRow(`a#${chunk}`, { chunk }))
      const store = await storeWith(...rows, makeRow('b#0'))
      expect(await all(store.documents())).toEqual([])
      await store.putDocuments([
        record('a', { chunks: 4, details: { path: 'a.md', size: 7 } }),
        record('empty', { chunks: 0 }),
      ])
      expect((await all(store.documents())).sort((x, y) => (x.documentId < y.documentId ? -1 : 1))).toEqual([
        record('a', { chunks: 4, details: { path: 'a.md', size: 7 } }),
        record('empty', { chunks: 0 }),
      ])
      await store.putDocuments([
        record('a', { contentHash: 'old' }),
        record('a', { chunks: 2, contentHash: 'shorter' }),
      ])
      expect(await all(store.documents(['a', 'nobody', 'a']))).toEqual([
        record('a', { chunks: 2, contentHash: 'shorter' }),
      ])
      expect(await all(store.documents([]))).toEqual([])
      expect(await idsOf(store.iterate())).toEqual(['a#0', 'a#1', 'b#0'])
      expect(await store.remove(['a', 'empty'])).toBe(2)
      expect(await all(store.documents())).toEqual([])
      await store.putDocuments([])
      for (const [parts, message] of [
        [{ documentId: '' }, /documentId/],
        [{ contentHash: '' }, /contentHash/],
        [{ chunks: 1.5 }, /chunks.*1\.5/],
        [{ details: { when: Number.NaN } }, /details\.when/],
      ] as const) {
        await expect(store.putDocuments([record('x', parts)])).rejects.toThrow(message)
      }
    })

    test('takes ten thousand documents with the same id as what they are: one', async () => {
      const store = await storeWith(makeRow('same', { text: 'before' }))
      const rows = Array.from({ length: 10_000 }, () => makeRow('same', { text: 'after', contentHash: 'after' }))
      expect(await store.add(rows, { fingerprint })).toEqual({ added: 0, replaced: 1, unchanged: 9_999 })
      expect(await store.count()).toBe(1)
      await store.putDocuments(
        Array.from({ length: 10_000 }, (_, index) => record('same', { contentHash: `${index}` })),
      )
      expect(await all(store.documents())).toEqual([record('same', { contentHash: '9999' })])
      const differing = rows.map((row, index) => ({ ...row, contentHash: `${index}` }))
      await expect(store.add(differing, { fingerprint })).rejects.toThrow(/Row "same" comes twice/)
      expect(await store.get(['same'])).toEqual([rows[0]])
    })

    test('iterates over the rows of one moment, whatever is written meanwhile', async () => {
      const rows = Array.from({ length: 300 }, (_, index) => makeRow(`d${index}#0`))
      const store = await storeWith(...rows)
      const seen: StoreRow[] = []
      for await (const row of store.iterate()) {
        if (seen.push(row) !== 1) continue
        await store.add([makeRow('new')], { fingerprint })
        await store.add([makeRow('d7#0', { contentHash: 'changed', text: 'changed' })], { fingerprint })
        await store.remove(['d5', 'd299'])
        await store.compact()
      }
      expect(seen.sort((a, b) => Number(a.id.slice(1, -2)) - Number(b.id.slice(1, -2)))).toEqual(rows)
      expect(await store.count()).toBe(299)
    })

    test('says what it holds', async () => {
      const store = await storeWith(makeRow('a#0'), makeRow('a#1', { chunk: 1 }), makeRow('b#0'))
      await store.putDocuments([record('a', { chunks: 2 })])
      const stats = await store.stats()
      expect(stats).toMatchObject({ documents: 1, chunks: 3, schemaVersion: 2, index: { kind: 'exact', unindexed: 0 } })
      expect(stats.bytes).toBeGreaterThan(3 * 8 * 4)
    })

    test('is the same after compacting', async () => {
      const rows = Array.from({ length: 20 }, (_, index) =>
        makeRow(`d#${index}`, { chunk: index, text: `word${index} all` }),
      )
      const store = await openStore()
      for (const row of rows) await store.add([row], { fingerprint })
      await store.add(
        rows.slice(0, 10).map((row) => ({ ...row, contentHash: 'new', text: `other${row.chunk} all` })),
        { fingerprint },
      )
      await store.compact()
      expect(await store.count()).toBe(20)
      expect((await store.searchText('word3', { limit: 5 })).map(({ id }) => id)).toEqual([])
      expect((await store.searchText('word13', { limit: 5 })).map(({ id }) => id)).toEqual(['d#13'])
      expect((await store.searchText('other3', { limit: 5 })).map(({ id }) => id)).toEqual(['d#3'])
      expect(await store.searchText('all', { limit: 50 })).toHaveLength(20)
      expect(await store.search(Float32Array.of(1, 0, 0), { fingerprint, limit: 50 })).toHaveLength(20)
      expect((await store.get(['d#3']))[0]?.text).toBe('other3 all')
    })

    test('verifies that what it holds is whole, and names the documents that lack rows', async () => {
      const store = await storeWith(makeRow('a#0'), makeRow('a#1', { chunk: 1 }), makeRow('b#1', { chunk: 1 }))
      await store.putDocuments([record('a', { chunks: 2 })])
      expect(await store.verify()).toEqual({ rows: 3, damaged: [] })
      await store.putDocuments([record('b', { chunks: 4 }), record('none', { chunks: 0 })])
      expect(await store.verify()).toEqual({
        rows: 3,
        damaged: [{ documentId: 'b', problem: 'it has 1 of its 4 rows; missing: 0, 2, 3' }],
      })
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
      ['an id with half a surrogate pair', { id: 'a\ud800' }, /id is not well-formed Unicode/],
      ['text with half a surrogate pair', { text: 'a\udc00b' }, /text of row "bad" is not well-formed Unicode/],
      ['metadata with half a surrogate pair', { metadata: { a: ['\ud800'] } }, /metadata\.a\[0\]/],
      [
        'half memory that is not finite',
        { memory: { dtype: 'float16', tokens: Uint16Array.of(0, 0x7c00, 0, 0), n: 1, width: 4 } },
        /position 1/,
      ],
      ['a chunk number beyond 32 bits', { chunk: 2 ** 31 }, /chunk number/],
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
      const store = await emptyStore()
      const attempt = store.add([makeRow('good'), makeRow('bad', parts)], { fingerprint })
      await expect(attempt).rejects.toThrow(ClaraError)
      await expect(attempt).rejects.toThrow(message)
      expect(await store.count()).toBe(0)
    })

    test('refuses one id twice in a call with different content', async () => {
      const store = await emptyStore()
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
      const store = await emptyStore()
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
        () => store.memories([]),
        () => store.contentHashes([]),
        () => store.putDocuments([]),
        () => all(store.documents()),
        () => store.searchText('a', { limit: 1 }),
        () => store.stats(),
        () => store.compact(),
        () => store.verify(),
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

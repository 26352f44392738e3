import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, describe, expect, test } from 'vitest'
import { createRandom } from '../../src/data/random.ts'
import { encodeMemory } from '../../src/store/codec.ts'
import { openLanceStore } from '../../src/store/lancedb/driver.ts'
import { writeLateFile } from '../../src/store/late/build.ts'
import { askedTokens, centreOf, encodeRow, signBytes, signsOf } from '../../src/store/late/codes.ts'
import { Arena, openKernel } from '../../src/store/late/kernel.ts'
import { kernelBytes } from '../../src/store/late/kernel-bytes.ts'
import { openLateFile } from '../../src/store/late/late-file.ts'
import { LateIndex } from '../../src/store/late/late-index.ts'
import { rotationFor } from '../../src/store/late/rotation.ts'
import { askedDirections, scoreMemories } from '../../src/store/late/scorer.ts'
import { maxSimilarity } from '../../src/store/late/similarity.ts'
import { openInMemoryStore } from '../../src/store/memory.ts'
import { dequantiseMemory, halveMemory, quantiseMemory } from '../../src/store/quantise.ts'
import type { Float32Memory, StoredMemory } from '../../src/store/store.ts'
import { askFor, describeMemorySearch, description, randomTokens, rowOf, searchMemory, width } from './memory-search.ts'

const root = mkdtempSync(join(tmpdir(), 'clara-late-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))
let places = 0
const place = () => join(root, `${places++}`)

describeMemorySearch('in memory', openInMemoryStore)
describeMemorySearch('LanceDB', (wanted) => openLanceStore(place(), { description: wanted }))

const random = createRandom(5)

describe('the kernel', () => {
  test('is what its source compiles to', async () => {
    const { default: wabt } = await import('wabt')
    const source = readFileSync(new URL('../../src/store/late/kernel.wat', import.meta.url), 'utf8')
    const module = (await wabt()).parseWat('kernel.wat', source, { simd: true })
    expect(Buffer.from(module.toBinary({}).buffer).toString('base64')).toBe(kernelBytes)
  })

  test.each([
    { bytes: 1, asked: 1 },
    { bytes: 1, asked: 4 },
    { bytes: 6, asked: 1 },
    { bytes: 6, asked: 4 },
    { bytes: 72, asked: 1 },
    { bytes: 72, asked: 4 },
  ])('sums table entries as a plain loop does, $bytes bytes a token, $asked at once', ({ bytes, asked }) => {
    const { memory, sumTables, sumTablesOfFour } = openKernel()
    const arena = new Arena(memory)
    const blocks = 3
    const take = (size: number) => arena.take(size)
    const [codes, tables, sums] = [take(blocks * 16 * bytes), take(bytes * 32 * asked), take(blocks * 32 * asked)]
    const view = new Uint8Array(memory.buffer)
    for (let index = 0; index < blocks * 16 * bytes; index++) view[codes + index] = random.int(256)
    // a quarter of them as great as they may be
    for (let index = 0; index < bytes * 32 * asked; index++) view[tables + index] = Math.min(31, random.int(42))
    const sum = asked === 4 ? sumTablesOfFour : sumTables
    sum(codes, blocks, bytes, tables, sums)
    for (let one = 0; one < asked; one++) {
      const found = new Uint16Array(memory.buffer, sums + one * blocks * 32, blocks * 16)
      const entry = (code: number, signs: number) => view[tables + (code * asked + one) * 16 + signs] ?? 0
      for (let token = 0; token < blocks * 16; token++) {
        let expected = 0
        for (let byte = 0; byte < bytes; byte++) {
          const code = view[codes + Math.floor(token / 16) * 16 * bytes + byte * 16 + (token % 16)] ?? 0
          expected += entry(2 * byte, code & 15) + entry(2 * byte + 1, code >> 4)
        }
        expect(found[token]).toBe(expected)
      }
    }
  })

  test('finds the nearest bit string, the first of equals', () => {
    const { memory, nearest } = openKernel()
    const arena = new Arena(memory)
    const [bytes, count] = [80, 50]
    const [query, strings] = [arena.take(bytes), arena.take(bytes * count)]
    const view = new Uint8Array(memory.buffer)
    for (let round = 0; round < 20; round++) {
      for (let index = query; index < strings + bytes * count; index++) view[index] = random.int(256)
      view.copyWithin(strings + bytes * 40, strings + bytes * 3, strings + bytes * 4)
      const distances = Array.from({ length: count }, (_, number) => {
        let distance = 0
        for (let index = 0; index < bytes; index++) {
          const differing = (view[query + index] ?? 0) ^ (view[strings + number * bytes + index] ?? 0)
          distance += differing.toString(2).replaceAll('0', '').length
        }
        return distance
      })
      const least = Math.min(...distances)
      expect(nearest(query, strings, count, bytes)).toBe(distances.indexOf(least) * 65_536 + least)
    }
  })

  test('its memory grows, and what was there stays', () => {
    const { memory } = openKernel()
    const arena = new Arena(memory)
    const first = arena.take(10)
    new Uint8Array(memory.buffer).set([1, 2, 3], first)
    const second = arena.take(5_000_000)
    expect(second % 16).toBe(0)
    expect(second).toBeGreaterThanOrEqual(first + 10)
    expect(memory.buffer.byteLength).toBeGreaterThanOrEqual(second + 5_000_000)
    expect([...new Uint8Array(memory.buffer, first, 3)]).toEqual([1, 2, 3])
  })
})

test('memories of every kind are scored by their best cosines', () => {
  for (const width of [16, 20, 64, 576]) {
    const tokens = (n: number) => Float32Array.from({ length: n * width }, () => random.normal())
    const question = tokens(3)
    const memories = [1, 2, 7].flatMap((n): StoredMemory[] => {
      const memory = { dtype: 'float32', tokens: tokens(n), n, width } as const
      return [memory, halveMemory(memory), quantiseMemory(memory)]
    })
    const empty = quantiseMemory({ dtype: 'float32', tokens: new Float32Array(width), n: 1, width })
    const all = [...memories, empty]
    const scores = scoreMemories(question, width, all.map(encodeMemory))
    // a question's numbers are rounded to integers: a product is off by a step / √12 on average, here by five times that at most
    const step = 1 / askedDirections(question, width).scale
    for (const [index, memory] of all.entries()) {
      const exact = maxSimilarity(question, dequantiseMemory(memory).tokens, width)
      expect(Math.abs((scores[index] ?? Number.NaN) - exact)).toBeLessThan((5 * step) / Math.sqrt(12) + 1e-6)
    }
    expect(step).toBeLessThan(4e-5)
    expect(scores.at(-1)).toBe(0)
  }
  expect(maxSimilarity(Float32Array.of(1, 0, 3, 4), Float32Array.of(0, 2, 5, 0), 2)).toBeCloseTo((1 + 0.8) / 2, 6)
})

/** What the codes stand for, by the formula itself. */
function estimate(query: Float32Memory, row: Float32Memory, centre: Float32Array): number {
  const { signs, factors, n } = encodeRow(row.tokens, width, centre)
  let sum = 0
  for (let asked = 0; asked < query.n; asked++) {
    const token = query.tokens.subarray(asked * width, (asked + 1) * width)
    const length = Math.hypot(...token)
    let most = Number.NEGATIVE_INFINITY
    const direction = token.map((value) => value / length)
    const rotated = direction.slice()
    rotationFor(width)(rotated)
    for (let at = 0; at < n; at++) {
      let [base, signed] = [0, 0]
      for (const [index, value] of direction.entries()) base += value * (centre[index] ?? 0)
      for (let index = 0; index < signsOf(width); index++) {
        const isSet = ((signs[at * signBytes(width) + (index >> 3)] ?? 0) >> (index & 7)) & 1
        signed += (rotated[index] ?? 0) * (isSet ? 1 : -1)
      }
      most = Math.max(most, base + ((factors[at] ?? 0) / 32_768) * signed)
    }
    sum += most
  }
  return sum / query.n
}

/** What an estimate may be off by because its tables are rounded. */
function roundingOf(query: Float32Memory, rows: readonly Float32Memory[], centre: Float32Array): number {
  const factors = rows.flatMap(({ tokens }) => [...encodeRow(tokens, width, centre).factors])
  const steps = askedTokens(query.tokens, width, centre).map(({ scale }) => scale)
  return ((Math.max(...factors) / 32_768) * (width / 4) * Math.max(...steps)) / 2
}

/** Some memories, and each with noise several times. */
function families(count: number, copies: number): Float32Memory[] {
  const originals = Array.from({ length: count }, (_, index) => randomTokens(1 + (index % 9)))
  return originals.flatMap((memory) => [memory, ...Array.from({ length: copies }, () => askFor(memory, memory.n, 0.4))])
}

async function* keyed(rows: readonly Float32Memory[]) {
  for (const [key, { tokens }] of rows.entries()) yield { key, tokens }
}

test.each([1, 12, 64, 80, 576])(
  'a rotation of %i numbers keeps products, and spreads what is in one of them',
  (size) => {
    const rotate = rotationFor(size)
    const [one, other] = [0, 1].map(() => Float32Array.from({ length: size }, () => random.normal()))
    if (!one || !other) throw new Error('no vectors')
    const product = (a: Float32Array, b: Float32Array) =>
      a.reduce((sum, value, index) => sum + value * (b[index] ?? 0), 0)
    const before = [product(one, other), product(one, one)]
    const single = Float32Array.from({ length: size }, (_, index) => (index === 0 ? 1 : 0))
    for (const vector of [one, other, single]) rotate(vector)
    expect(product(one, other)).toBeCloseTo(before[0] ?? Number.NaN, 3)
    expect(product(one, one)).toBeCloseTo(before[1] ?? Number.NaN, 3)
    expect(Math.max(...single.map(Math.abs))).toBeLessThan(size < 64 ? 1 + 1e-6 : 0.5)
  },
)

describe('the late-interaction index', () => {
  const rows = families(90, 6)
  const centre = centreOf(
    rows.slice(0, 256).map(({ tokens }) => tokens),
    width,
  )

  test('estimates by the formula, the best first, from a file as from rows that were added', async () => {
    const path = place()
    expect(await writeLateFile(path, width, keyed(rows))).toBe(rows.length)
    const file = openLateFile(path, width)
    if (file === undefined) throw new Error('There is no file.')
    expect([...file.keys].sort((a, b) => a - b)).toEqual(rows.map((_, index) => index))
    const added = new LateIndex(undefined, centre)
    added.add(rows.map(({ tokens }) => encodeRow(tokens, width, centre)))
    for (const [index, keys] of [[new LateIndex(file, centre), file.keys] as const, [added, undefined] as const]) {
      // four at once and one by itself
      const query = randomTokens(5)
      const found = index.find(query.tokens, { limit: 40, exhaustive: true })
      const expected = rows.map((row) => estimate(query, row, centre)).sort((a, b) => b - a)
      expect(found).toHaveLength(40)
      // tables hold sums in steps: each of a token's entries is off by half a step at most, and mostly they make up for each other
      const most = roundingOf(query, rows, centre)
      const errors = found.flatMap(({ row, score }, place) => [
        Math.abs(score - (expected[place] ?? Number.NaN)),
        Math.abs(score - estimate(query, rows[keys?.[row] ?? row] ?? randomTokens(1), centre)),
      ])
      expect(Math.max(...errors)).toBeLessThan(most)
      expect(errors.reduce((sum, error) => sum + error, 0) / errors.length).toBeLessThan(most / 8)
    }
    file.close()
  })

  test('a cluster begins with the row that stands for it best', async () => {
    // every seventh row is an original, the six that follow it are its copies with noise
    const path = place()
    await writeLateFile(path, width, keyed(rows))
    const file = openLateFile(path, width)
    if (file === undefined) throw new Error('There is no file.')
    const families = file.clusters.flatMap(({ first, rows: count }) => {
      const keys = [...file.keys.subarray(first - 1, first + count)]
      const isFamily = keys.length >= 5 && new Set(keys.map((key) => Math.floor(key / 7))).size === 1
      return isFamily ? [keys] : []
    })
    file.close()
    expect(families.length).toBeGreaterThan(20)
    const [leading, there] = [(keys: number[]) => keys[0], (keys: number[]) => keys.find((key) => key % 7 === 0)]
    const originals = families.filter((keys) => there(keys) !== undefined)
    const led = originals.filter((keys) => leading(keys) === there(keys))
    // one in seven by chance
    expect(led.length / originals.length).toBeGreaterThan(0.8)
  })

  test('estimates are right on average, and as near as the paper says', () => {
    let [sum, squares, count] = [0, 0, 0]
    for (let round = 0; round < 400; round++) {
      const row = randomTokens(1)
      const query = askFor(row, 1, round % 3)
      const error = estimate(query, row, centre) - maxSimilarity(query.tokens, row.tokens, width)
      sum += error
      squares += error ** 2
      count++
    }
    // for unit vectors that are at cosine c the deviation is √(π/2 · width / signs - 1) · √(1 - c²) / √width
    const most = Math.sqrt((Math.PI / 2) * (width / signsOf(width)) - 1) / Math.sqrt(width)
    expect(Math.abs(sum / count)).toBeLessThan(0.015)
    expect(Math.sqrt(squares / count)).toBeLessThan(most)
    expect(Math.sqrt(squares / count)).toBeGreaterThan(0.02)
  })

  test('a file that is cut off, altered or of another width is no index', async () => {
    const path = place()
    await writeLateFile(path, width, keyed(rows.slice(0, 20)))
    const whole = readFileSync(path)
    expect(openLateFile(path, width * 2)).toBeUndefined()
    for (const length of [0, 7, 30, 200, whole.length - 1]) {
      writeFileSync(path, whole)
      truncateSync(path, length)
      expect(openLateFile(path, width)).toBeUndefined()
    }
    for (const at of [0, 12, 24, 28, 33, 300]) {
      const altered = Uint8Array.from(whole)
      altered[at] = (altered[at] ?? 0) ^ 0x41
      writeFileSync(path, altered)
      expect(openLateFile(path, width)).toBeUndefined()
    }
    writeFileSync(path, Buffer.concat([whole, Buffer.of(0)]))
    expect(openLateFile(path, width)).toBeUndefined()
  })

  test('a row without tokens of its own, and questions of many tokens, are no trouble', () => {
    const index = new LateIndex(undefined, centre)
    index.add([encodeRow(new Float32Array(width), width, centre)])
    index.add(rows.slice(0, 3).map(({ tokens }) => encodeRow(tokens, width, centre)))
    const many = randomTokens(100)
    const found = index.find(many.tokens, { limit: 9 })
    expect(found).toHaveLength(4)
    for (const { row, score } of found) {
      const memory = rows[row - 1] ?? { ...randomTokens(1), tokens: new Float32Array(width) }
      expect(score).toBeCloseTo(estimate(many, memory, centre), 2)
    }
  })

  test('no rows at all make a file too', async () => {
    const path = place()
    expect(await writeLateFile(path, width, keyed([]))).toBe(0)
    const file = openLateFile(path, width)
    expect(file?.counts).toHaveLength(0)
    expect(file && new LateIndex(file, centre).find(randomTokens(1).tokens, { limit: 3 })).toEqual([])
    file?.close()
  })
})

test('a store that grows gets the index by itself, and finds nearly what comparing with every row finds', async () => {
  const folder = place()
  await using store = await openLanceStore(folder, { description })
  const memories = families(220, 9)
  const rows = memories.map((memory, index) => rowOf(`r${index}`, memory, { text: '' }))
  for (let start = 0; start < rows.length; start += 110) {
    await store.add(rows.slice(start, start + 110), { fingerprint: 'model-a' })
  }
  const deadline = performance.now() + 60_000
  while ((await store.stats()).index.kind === 'exact' && performance.now() < deadline) await sleep(50)
  expect((await store.stats()).index).toMatchObject({ kind: 'approximate' })
  await store.add([rowOf('late', randomTokens(2))], { fingerprint: 'model-a' })
  let common = 0
  const queries = Array.from({ length: 20 }, (_, index) => askFor(memories[index * 97] ?? randomTokens(1), 2, 1))
  await using other = await openLanceStore(folder)
  for (const query of queries) {
    const scores = memories.map(
      (memory, index) => [`r${index}`, maxSimilarity(query.tokens, memory.tokens, width)] as const,
    )
    const best = scores.sort((a, b) => b[1] - a[1]).slice(0, 10)
    const found = new Set((await searchMemory(other, query, { limit: 100 })).map(({ id }) => id))
    common += best.filter(([id]) => found.has(id)).length
  }
  expect(common / 200).toBeGreaterThan(0.9)
  // a damaged index costs nothing but time
  writeFileSync(join(folder, 'late.index'), 'no index')
  await using third = await openLanceStore(folder)
  expect(await searchMemory(third, randomTokens(1), { limit: 5_000 })).toHaveLength(2_201)
  expect((await third.verify()).damaged).toEqual([])
}, 120_000)

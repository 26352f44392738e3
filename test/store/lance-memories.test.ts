import { mkdtempSync, readdirSync, rmSync, truncateSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, describe, expect, test, vi } from 'vitest'
import { createRandom } from '../../src/data/random.ts'
import { openLanceStore } from '../../src/store/lancedb/driver.ts'
import { MemoryReader } from '../../src/store/lancedb/memories.ts'
import { openTables } from '../../src/store/lancedb/tables.ts'
import { quantiseMemory } from '../../src/store/quantise.ts'
import type { StoreRow } from '../../src/store/store.ts'
import { description, randomTokens, rowOf, searchMemory } from './memory-search.ts'

/* What is read from Lance's files directly is what LanceDB reads from them. */

const root = mkdtempSync(join(tmpdir(), 'clara-lance-files-'))
afterAll(() => rmSync(root, { recursive: true, force: true }))
afterEach(() => vi.restoreAllMocks())
let folders = 0
const random = createRandom(3)
const options = { fingerprint: description.fingerprint }

/** A store of rows with memories of 8 to 40 tokens, so long that Lance keeps them one by one; added in parts, every seventh removed again. */
async function storeOf(parts: readonly number[], { compact = false } = {}): Promise<string> {
  const folder = join(root, `${folders++}`)
  await using store = await openLanceStore(folder, { description })
  let next = 0
  for (const rows of parts) {
    const added: StoreRow[] = Array.from({ length: rows }, () =>
      rowOf(`r${next++}`, randomTokens(8 + random.int(33)), { text: '' }),
    )
    await store.add(added, options)
  }
  await store.remove(Array.from({ length: Math.ceil(next / 7) }, (_, index) => `r${index * 7}`))
  if (compact) await store.compact()
  return folder
}

/** What LanceDB reads: memories by the numbers of their rows. */
async function readByLance(folder: string) {
  const tables = await openTables(folder, 0)
  try {
    const memories = new Map<number, Uint8Array>()
    for await (const batch of tables.rows.query().select(['memory']).withRowId()) {
      for (let at = 0; at < batch.numRows; at++) {
        memories.set(Number(batch.getChild('_rowid')?.get(at)), batch.getChild('memory')?.get(at).slice())
      }
    }
    return { memories, version: await tables.rows.version() }
  } finally {
    tables.connection.close()
  }
}

async function readerOf(folder: string, at?: number): Promise<MemoryReader> {
  const reader = new MemoryReader(folder)
  await reader.turnTo(at ?? (await readByLance(folder)).version)
  return reader
}

const dataFiles = (folder: string) => {
  const data = join(folder, 'data', 'rows.lance', 'data')
  return readdirSync(data).map((name) => join(data, name))
}

describe('memories read where they lie', () => {
  test.each([
    { name: 'one file', parts: [40] },
    { name: 'a file of one row', parts: [1, 1] },
    { name: 'several files', parts: [3, 200, 40] },
    { name: 'a file of several pages, joined', parts: [1_500, 700], compact: true },
  ])('are what LanceDB reads: $name', async ({ parts, compact }) => {
    const folder = await storeOf(parts, { compact: compact ?? false })
    const { memories } = await readByLance(folder)
    const reader = await readerOf(folder)
    const places = [...memories.keys()].sort((one, other) => one - other)
    const read = reader.read(places)
    expect(places.length).toBeGreaterThan(0)
    expect(read?.length).toBe(places.length)
    for (const [index, place] of places.entries()) {
      expect(Buffer.from(read?.[index] ?? []).equals(memories.get(place) ?? Buffer.alloc(0))).toBe(true)
    }
  })

  test('short ones, which Lance packs together, are left to LanceDB', async () => {
    const folder = join(root, `${folders++}`)
    await using store = await openLanceStore(folder, { description: { ...description, memoryWidth: 4 } })
    const memory = quantiseMemory({ dtype: 'float32', tokens: new Float32Array(4).fill(1), n: 1, width: 4 })
    await store.add(
      Array.from({ length: 50 }, (_, index) => rowOf(`r${index}`, randomTokens(1), { memory })),
      options,
    )
    const { memories } = await readByLance(folder)
    const reader = await readerOf(folder)
    expect(reader.read([...memories.keys()])).toBeUndefined()
    const query = { ...memory, dtype: 'float32', tokens: new Float32Array(4).fill(1) } as const
    expect(await searchMemory(store, query, { limit: 10 })).toHaveLength(10)
  })

  test('a row or a file that is not there is not made up', async () => {
    const folder = await storeOf([40])
    const { memories } = await readByLance(folder)
    const reader = await readerOf(folder)
    const [place = 0] = memories.keys()
    expect(reader.read([place])).toHaveLength(1)
    expect(reader.read([place + 1_000])).toBeUndefined()
    expect(reader.read([place + 99 * 2 ** 32])).toBeUndefined()
    for (const path of dataFiles(folder)) rmSync(path)
    expect(reader.read([place])).toBeUndefined()
  })

  test('a version that is not there, or a manifest of another kind, is left to LanceDB', async () => {
    const folder = await storeOf([10])
    const { version, memories } = await readByLance(folder)
    const places = [...memories.keys()]
    const readAt = async (at: number) => (await readerOf(folder, at)).read(places)
    expect(await readAt(version)).toHaveLength(places.length)
    expect(await readAt(version + 7)).toBeUndefined()
    const name = `${2n ** 64n - 1n - BigInt(version)}.manifest`
    const path = join(folder, 'data', 'rows.lance', '_versions', name)
    const manifest = await readFile(path)
    for (const bytes of [Buffer.alloc(0), manifest.subarray(0, 60), Buffer.concat([manifest, Buffer.from('x')])]) {
      await writeFile(path, bytes)
      expect(await readAt(version)).toBeUndefined()
    }
  })

  test('whatever is damaged in a file is left to LanceDB, or is a value of its length', async () => {
    const folder = await storeOf([60])
    const { memories, version } = await readByLance(folder)
    const places = [...memories.keys()]
    const [path = ''] = dataFiles(folder)
    const whole = await readFile(path)
    // the descriptions of columns, and every other time the footer of 40 bytes, where a wrong number leads elsewhere
    const described = Number(whole.readBigUInt64LE(whole.length - 40))
    let refused = 0
    for (let round = 0; round < 300; round++) {
      const damaged = Buffer.from(whole)
      const from = round % 2 === 0 ? whole.length - 40 : described
      const at = from + random.int(whole.length - from)
      damaged[at] = random.int(256)
      await writeFile(path, damaged)
      const read = (await readerOf(folder, version)).read(places)
      if (read === undefined) refused++
      else for (const memory of read) expect(memory.length).toBeLessThanOrEqual(whole.length)
    }
    // 16 of the footer's bytes must be what they are
    expect(refused).toBeGreaterThan(30)
    for (const length of [0, 10, whole.length - 41, whole.length - 1]) {
      await writeFile(path, whole)
      truncateSync(path, length)
      expect((await readerOf(folder, version)).read(places)).toBeUndefined()
    }
  })
})

test('a search scores the same either way', async () => {
  const folder = await storeOf([150, 30])
  const query = randomTokens(3)
  const searched = async () => {
    await using store = await openLanceStore(folder)
    return await searchMemory(store, query, { limit: 20 })
  }
  const found = await searched()
  expect(found).toHaveLength(20)
  const read = vi.spyOn(MemoryReader.prototype, 'read').mockReturnValue(undefined)
  expect(await searched()).toEqual(found)
  expect(read).toHaveBeenCalled()
})

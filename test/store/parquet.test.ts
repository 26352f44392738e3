import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { openLanceStore } from '../../src/store/lancedb/driver.ts'
import { openInMemoryStore } from '../../src/store/memory.ts'
import { exportStore, importStore, readExport } from '../../src/store/parquet.ts'
import { halveMemory, quantiseMemory } from '../../src/store/quantise.ts'
import type { Store, StoreRow } from '../../src/store/store.ts'
import { makeRow, record } from './conformance.ts'

const description = { fingerprint: 'model-a', memoryWidth: 4, vectorWidth: 3, details: { seed: 7, mean: [0.125, -3] } }
const { fingerprint } = description
const root = await mkdtemp(join(tmpdir(), 'clara-export-'))
afterAll(() => rm(root, { recursive: true, force: true }))

const float = { dtype: 'float32', tokens: Float32Array.of(1, -2, 0.5, 4), n: 1, width: 4 } as const
const rows = [
  makeRow('a#0', { text: '\ufeffÄ\u0000 "quoted"\n', metadata: { deep: [1, { '\u0000': null }] }, memory: float }),
  makeRow('a#1', { chunk: 1, memory: quantiseMemory(float), vector: Float32Array.of(0.6, 0, -0.8) }),
  makeRow('b#0', { memory: halveMemory(float), text: '' }),
  ...Array.from({ length: 600 }, (_, index) => makeRow(`many#${index}`, { chunk: index })),
]
const records = [record('a', { chunks: 2, details: { path: 'a\nb' } }), record('many', { chunks: 600, details: null })]

async function contentOf(store: Store): Promise<{ rows: StoreRow[]; documents: unknown[] }> {
  const found: StoreRow[] = []
  for await (const row of store.iterate()) found.push(row)
  const documents: { documentId: string }[] = []
  for await (const one of store.documents()) documents.push(one)
  return {
    rows: found.sort((a, b) => (a.id < b.id ? -1 : 1)),
    documents: documents.sort((a, b) => (a.documentId < b.documentId ? -1 : 1)),
  }
}

async function exported(name: string): Promise<{ path: string; store: Store }> {
  const store = await openInMemoryStore(description)
  await store.add(rows, { fingerprint })
  await store.putDocuments(records)
  const path = join(root, `${name}.parquet`)
  expect(await exportStore(store, path)).toBe(rows.length)
  return { path, store }
}

test('an export, imported into a store of another driver, is the same store', async () => {
  const { path, store } = await exported('whole')
  expect(await readExport(path)).toEqual({ description, rows: rows.length })
  await using other = await openLanceStore(join(root, 'other'), { description: (await readExport(path)).description })
  expect(await importStore(other, path)).toBe(rows.length)
  expect(await contentOf(other)).toEqual(await contentOf(store))
  expect((await other.verify()).damaged).toEqual([])
  // again: nothing changes
  expect(await importStore(other, path)).toBe(rows.length)
  expect(await other.count()).toBe(rows.length)
  const back = join(root, 'back.parquet')
  await exportStore(other, back)
  const third = await openInMemoryStore(description)
  await importStore(third, back)
  expect(await contentOf(third)).toEqual(await contentOf(store))
  expect((await readdir(root)).filter((name) => name.endsWith('.tmp'))).toEqual([])
})

test('an empty store can be exported and imported', async () => {
  const path = join(root, 'empty.parquet')
  expect(await exportStore(await openInMemoryStore(description), path)).toBe(0)
  expect(await importStore(await openInMemoryStore(description), path)).toBe(0)
})

test('an export is refused by a store of another model, or with other retrieval vectors', async () => {
  const { path } = await exported('refused')
  const other = await openInMemoryStore({ ...description, fingerprint: 'model-b' })
  await expect(importStore(other, path)).rejects.toThrow(/"model-b".*"model-a"/)
  const seeded = await openInMemoryStore({ ...description, details: { seed: 8, mean: [0.125, -3] } })
  await expect(importStore(seeded, path)).rejects.toThrow(/retrieval vectors.*made otherwise/)
  expect(await other.count()).toBe(0)
})

test('a file that is missing, no export, cut off or damaged is refused with its reason', async () => {
  const store = await openInMemoryStore(description)
  await expect(importStore(store, join(root, 'nowhere.parquet'))).rejects.toThrow(/cannot be read.*ENOENT/)
  const noise = join(root, 'noise.parquet')
  await writeFile(noise, 'PAR1 this is not what it says PAR1')
  await expect(importStore(store, noise)).rejects.toThrow(/no whole export/)
  const { path } = await exported('damaged')
  const bytes = await readFile(path)
  await truncate(path, bytes.length - 100)
  await expect(readExport(path)).rejects.toThrow(/no whole export/)
  const at = bytes.indexOf('text of many#')
  bytes[at + 2] = (bytes[at + 2] ?? 0) ^ 2
  await writeFile(path, bytes)
  await expect(importStore(await openInMemoryStore(description), path)).rejects.toThrow(/no whole export.*row/)
  await expect(exportStore(store, join(root, 'no-folder', 'x.parquet'))).rejects.toThrow(/cannot be written.*ENOENT/)
})

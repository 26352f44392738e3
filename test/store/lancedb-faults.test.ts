import { execFileSync } from 'node:child_process'
import { randomFillSync } from 'node:crypto'
import { chmodSync, readdirSync, readFileSync, statSync, truncateSync, utimesSync, writeFileSync } from 'node:fs'
import { mkdir, mkdtemp, rm } from 'node:fs/promises'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { openLanceStore } from '../../src/store/lancedb/driver.ts'
import { lock } from '../../src/store/lancedb/lock.ts'
import type { Store, StoreRow } from '../../src/store/store.ts'
import { makeRow, record } from './conformance.ts'
import { checkStore, killWhileAdding, start } from './processes.ts'

const description = { fingerprint: 'model-a', memoryWidth: 4, vectorWidth: 3, details: { seed: 7, mean: [0.1, 0.2] } }
const { fingerprint } = description
const root = await mkdtemp(join(tmpdir(), 'clara-store-faults-'))
afterAll(() => rm(root, { recursive: true, force: true }))

let stores = 0
const newFolder = () => join(root, `${stores++}`)

async function storeOf(folder: string, ...rows: StoreRow[]): Promise<void> {
  await using store = await openLanceStore(folder, { description })
  await store.add(rows, { fingerprint })
}

async function messageOf(attempt: Promise<unknown>): Promise<string> {
  const error = await attempt.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  expect(error).toMatchObject({ name: 'ClaraError' })
  return error instanceof Error ? error.message : ''
}

test('killed at random moments while it adds, a process loses nothing that was acknowledged', async () => {
  await killWhileAdding(newFolder(), 4)
})

test('two processes add to one store at once, and nothing is lost or doubled', async () => {
  const folder = newFolder()
  const both = [start('add', folder, 12), start('add', folder, 12)]
  await Promise.all(both.map(({ ended }) => ended))
  await checkStore(folder, 12)
})

describe('opening', () => {
  test('keeps the description that the store was made with, and needs none to open it', async () => {
    const folder = newFolder()
    await storeOf(folder, makeRow('a'))
    const { details: _, ...without } = description
    await using store = await openLanceStore(folder)
    expect(store.description).toEqual(description)
    await using again = await openLanceStore(folder, { description: { ...without, details: 'ignored' } })
    expect(again.description).toEqual(description)
  })

  test("refuses another model's store, another width, a missing store and a folder with other files", async () => {
    const folder = newFolder()
    await storeOf(folder, makeRow('a'))
    const other = { ...description, fingerprint: 'model-b' }
    const message = await messageOf(openLanceStore(folder, { description: other }))
    expect(message).toMatch(/written by another model.*"model-a".*"model-b"/)
    const wider = openLanceStore(folder, { description: { ...description, vectorWidth: 4 } })
    expect(await messageOf(wider)).toMatch(/another vectorWidth.*3.*4/)
    expect(await messageOf(openLanceStore(newFolder()))).toMatch(/There is no store in/)
    expect(await messageOf(openLanceStore(join(folder, 'data'), { description }))).toMatch(
      /holds no store, but other files/,
    )
    expect(await messageOf(openLanceStore(join(folder, 'store.json'), { description }))).toMatch(/is a file/)
  })

  test.each([
    ['of a newer schema', { schemaVersion: 99 }, /newer version.*1 to 2.*99.*newest version/],
    ['without a schema version', { schemaVersion: undefined }, /no valid schema version/],
    ['of another format', { format: 'other' }, /does not describe a store/],
    ['without a fingerprint', { description: { memoryWidth: 4, vectorWidth: 3 } }, /no model fingerprint/],
  ])('refuses a store %s', async (_, change, message) => {
    const folder = newFolder()
    await storeOf(folder, makeRow('a'))
    const path = join(folder, 'store.json')
    writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...change }))
    expect(await messageOf(openLanceStore(folder))).toMatch(message)
  })

  test('refuses a description that was cut off or is missing, and makes a store anew whose making was interrupted', async () => {
    const folder = newFolder()
    await storeOf(folder)
    const path = join(folder, 'store.json')
    // it is written last: without it, and without a row, nothing was acknowledged yet
    await rm(path)
    await storeOf(folder, makeRow('a'))
    const content = readFileSync(path)
    truncateSync(path, 20)
    expect(await messageOf(openLanceStore(folder, { description }))).toMatch(/does not describe a store.*clara-store/)
    await rm(path)
    expect(await messageOf(openLanceStore(folder, { description }))).toMatch(/lost its description.*store\.json/)
    writeFileSync(path, content)
    await using store = await openLanceStore(folder, { description })
    expect(await store.count()).toBe(1)
  })
})

describe('damaged files', () => {
  async function documentsOf(folder: string): Promise<void> {
    await using store = await openLanceStore(folder, { description })
    for (let document = 0; document < 4; document++) {
      const rows = [0, 1, 2].map((chunk) =>
        makeRow(`d${document}#${chunk}`, {
          chunk,
          text: `word${document} of ${chunk}`,
          memory: {
            dtype: 'int8',
            tokens: new Int8Array(4_000).map((_, index) => (index * (document + 2)) % 128),
            scales: new Float32Array(1_000).fill(1),
            n: 1_000,
            width: 4,
          },
        }),
      )
      await store.add(rows, { fingerprint })
      await store.putDocuments([record(`d${document}`, { chunks: 3 })])
    }
  }

  const dataFiles = (folder: string) => {
    const data = join(folder, 'data', 'rows.lance', 'data')
    return readdirSync(data).map((name) => join(data, name))
  }

  async function addAgain(store: Store, documentIds: ReadonlySet<string | undefined>): Promise<void> {
    await store.putDocuments([...documentIds].map((id) => record(id ?? '', { chunks: 3 })))
  }

  test('a truncated data file costs its rows only: they are named by their document, removed by repair, and added again', async () => {
    const folder = newFolder()
    await documentsOf(folder)
    const [file = ''] = dataFiles(folder)
    truncateSync(file, statSync(file).size >> 1)
    await using store = await openLanceStore(folder, { description })
    expect(await messageOf(store.search(Float32Array.of(1, 0, 0), { fingerprint, limit: 9 }))).toMatch(
      /damaged file.*[Vv]erify/,
    )
    const { rows, damaged } = await store.verify()
    expect(rows).toBe(9)
    const documents = new Set(damaged.map(({ documentId }) => documentId).filter((id) => id !== undefined))
    expect(damaged.find(({ documentId }) => documentId !== undefined)?.problem).toBe(
      'it has 0 of its 3 rows; missing: 0, 1, 2',
    )
    expect(documents.size).toBe(1)
    expect((await store.verify({ repair: true })).rows).toBe(9)
    expect(await store.verify()).toEqual({ rows: 9, damaged: [] })
    expect(await store.search(Float32Array.of(1, 0, 0), { fingerprint, limit: 99 })).toHaveLength(9)
    const [lost = ''] = documents
    const again = [0, 1, 2].map((chunk) => makeRow(`${lost}#${chunk}`, { chunk, text: 'back' }))
    expect(await store.add(again, { fingerprint })).toMatchObject({ added: 3 })
    await addAgain(store, documents)
    await store.compact()
    expect(await store.verify()).toEqual({ rows: 12, damaged: [] })
    expect(await store.searchText('back', { limit: 9 })).toHaveLength(3)
  })

  test('a flipped bit is found by its row and repaired alone', async () => {
    const folder = newFolder()
    await documentsOf(folder)
    const [file = ''] = dataFiles(folder)
    const bytes = readFileSync(file)
    // inside the memory, which fills most of the file and is not compressed
    const at = bytes.length >> 1
    bytes[at] = (bytes[at] ?? 0) ^ 1
    writeFileSync(file, bytes)
    await using store = await openLanceStore(folder, { description })
    const { rows, damaged } = await store.verify({ repair: true })
    expect(rows).toBe(12)
    expect(damaged).toEqual([
      { id: expect.stringMatching(/^d\d#\d$/), documentId: expect.any(String), problem: 'its checksum differs' },
    ])
    expect(await store.verify()).toEqual({ rows: 11, damaged: [] })
    const complete: string[] = []
    for await (const { documentId } of store.documents()) complete.push(documentId)
    expect(complete).toHaveLength(3)
    expect(complete).not.toContain(damaged[0]?.documentId)
  })
})

describe("the writer's lock", () => {
  const nameOf = (parts: object) =>
    JSON.stringify({ pid: process.pid, host: hostname(), began: '', token: 'x', ...parts })

  test('makes a second writer wait, and fail in the end with the name of the first; readers go on', async () => {
    const folder = newFolder()
    await storeOf(folder, makeRow('a'))
    const release = await lock(join(folder, 'writer.lock'), 0)
    await using store = await openLanceStore(folder, { description, lockTimeout: 200 })
    const message = await messageOf(store.add([makeRow('b')], { fingerprint }))
    expect(message).toContain(`process ${process.pid} on ${hostname()}`)
    expect(message).toContain(join(folder, 'writer.lock'))
    expect(await store.count()).toBe(1)
    expect((await store.search(Float32Array.of(1, 0, 0), { fingerprint, limit: 2 })).map(({ id }) => id)).toEqual(['a'])
    await using patient = await openLanceStore(folder, { description })
    const added = patient.add([makeRow('b')], { fingerprint })
    setTimeout(release, 100)
    expect(await added).toMatchObject({ added: 1 })
    expect(readdirSync(folder).sort()).toEqual(['data', 'store.json'])
  })

  test.each([
    ['a process that ended', () => nameOf({ pid: Number(execFileSync(process.execPath, ['-p', 'process.pid'])) }), 0],
    ['a process whose number another has now', () => nameOf({ began: 'long ago' }), 0],
    ['a process on another machine that no longer touches it', () => nameOf({ host: 'elsewhere' }), 120],
    ['a process that ended before it wrote its name', () => '{"pid":', 10],
  ])('is taken from %s', async (_, content, age) => {
    const folder = newFolder()
    await storeOf(folder, makeRow('a'))
    const path = join(folder, 'writer.lock')
    writeFileSync(path, content())
    const then = Date.now() / 1000 - age
    utimesSync(path, then, then)
    await using store = await openLanceStore(folder, { description, lockTimeout: 3_000 })
    expect(await store.add([makeRow('b')], { fingerprint })).toMatchObject({ added: 1 })
  })

  test.each([
    ['a live process on another machine', nameOf({ host: 'elsewhere', pid: 4 }), /process 4 on elsewhere/],
    ['a process that is just writing its name', '', /another process/],
  ])('is not taken from %s', async (_, content, message) => {
    const folder = newFolder()
    await mkdir(folder)
    const path = join(folder, 'writer.lock')
    writeFileSync(path, content)
    expect(await messageOf(lock(path, 50))).toMatch(message)
    expect(readFileSync(path, 'utf8')).toBe(content)
  })

  test('is held by one of many at a time, though all find a dead holder', async () => {
    const folder = newFolder()
    await mkdir(folder)
    const path = join(folder, 'writer.lock')
    writeFileSync(path, nameOf({ began: 'long ago' }))
    let holders = 0
    const contend = async () => {
      const release = await lock(path, 20_000)
      expect(++holders).toBe(1)
      await new Promise((resolve) => setTimeout(resolve, 2))
      holders--
      await release()
    }
    await Promise.all(Array.from({ length: 20 }, contend))
    expect(readdirSync(folder)).toEqual([])
  })
})

test('compacting gives space back, but not what somebody is still reading, in whatever process', async () => {
  const folder = newFolder()
  await using store = await openLanceStore(folder, { description })
  await using other = await openLanceStore(folder)
  const memory = () =>
    ({
      dtype: 'int8',
      tokens: randomFillSync(new Int8Array(4_000)),
      scales: new Float32Array(1_000),
      n: 1_000,
      width: 4,
    }) as const
  const rowsOf = (version: number) =>
    Array.from({ length: 50 }, (_, index) => makeRow(`d${index}#0`, { memory: memory(), contentHash: `${version}` }))
  for (let version = 0; version < 5; version++) await store.add(rowsOf(version), { fingerprint })
  const raw = 50 * 8_000
  expect((await store.stats()).bytes).toBeGreaterThan(5 * raw)
  const reading = other.iterate()
  const seen = [(await reading.next()).value?.contentHash]
  await store.add(rowsOf(5), { fingerprint })
  await store.compact()
  for await (const row of reading) seen.push(row.contentHash)
  expect(seen).toEqual(Array.from({ length: 50 }, () => '4'))
  expect(await other.contentHashes(['d7#0'])).toEqual(['5'])
  await store.compact()
  expect((await store.stats()).bytes).toBeLessThan(1.2 * raw)
  expect(readdirSync(join(folder, 'readers'))).toEqual([])
  expect((await other.verify()).damaged).toEqual([])
})

/** Somebody who may read the folder and not write it; root may do both everywhere. */
const reader = process.getuid?.() === 0 ? { user: 65_534 } : {}

test('a read-only folder can be read, and says why it cannot be written', async () => {
  const folder = newFolder()
  await start('add', folder, 2).ended
  chmodSync(root, 0o755)
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    chmodSync(join(entry.parentPath, entry.name), entry.isDirectory() ? 0o555 : 0o444)
  }
  chmodSync(folder, 0o555)
  const lines = await start('write', folder, 0, reader).ended
  expect(lines.slice(0, 2)).toEqual(['rows 6', 'found 1'])
  expect(lines[2]).toMatch(/^error ClaraError .*may not be written.*Reading works/)
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true })) {
    if (entry.isDirectory()) chmodSync(join(entry.parentPath, entry.name), 0o755)
  }
  chmodSync(folder, 0o755)
})

/** A file system of 16 MiB, where this process may mount one. */
const small = await (async () => {
  const folder = join(root, 'small')
  await mkdir(folder)
  try {
    execFileSync('/bin/mount', ['-t', 'tmpfs', '-o', 'size=16m', 'tmpfs', folder], { stdio: 'ignore' })
    afterAll(() => void execFileSync('/bin/umount', [folder]))
    return folder
  } catch {
    return undefined
  }
})()

test(`on a full disk (${small ? 'a small file system' : 'a limit on the size of files'}) a write fails with its reason, and all before it is safe`, async () => {
  const folder = small === undefined ? newFolder() : join(small, 'store')
  const limit = ['bash', '-c', 'ulimit -f 800 && exec "$@"', 'bash']
  const lines = await start('fill', folder, 100, small === undefined ? { through: limit } : {}).ended
  expect(lines[0]).toMatch(/^error ClaraError .*the disk is full.*acknowledged is safe/)
  const acknowledged = Number(lines[1]?.split(' ')[1])
  await using store = await openLanceStore(folder)
  expect(await store.verify()).toEqual({ rows: acknowledged, damaged: [] })
  expect(await store.count()).toBe(acknowledged)
})

import pg from 'pg'
import { afterAll, describe, expect, test } from 'vitest'
import { openPostgresStore } from '../../src/store/postgres/driver.ts'
import { makeRow, record } from './conformance.ts'
import { openDatabase } from './pglite.ts'

const description = { fingerprint: 'model-a', memoryWidth: 4, vectorWidth: 3, details: { seed: 7 } }
const { fingerprint } = description
const database = await openDatabase()
afterAll(() => database.close())

let schemas = 0
const newSchema = () => `faults_${schemas++}`
const open = (schema: string, patience = 10_000) =>
  openPostgresStore(database.url, { description, schema, patience, connections: 1 })

async function query(text: string): Promise<void> {
  const client = new pg.Client({ connectionString: database.url })
  await client.connect()
  await client.query(text)
  await client.end()
}

describe('a database that is stopped and started again', () => {
  test('costs waiting, and nothing that was acknowledged', async () => {
    const schema = newSchema()
    await using store = await open(schema)
    await store.add([makeRow('a')], { fingerprint })
    await database.stop()
    const pending = [
      store.add([makeRow('b')], { fingerprint }),
      store.search(Float32Array.of(1, 0, 0), { fingerprint, limit: 5 }),
      store.count({ documentIds: ['a'] }),
    ] as const
    setTimeout(() => void database.start(), 400)
    const [, found, count] = await Promise.all(pending)
    expect(found.map(({ id }) => id)).toContain('a')
    expect(count).toBe(1)
    expect(await store.contentHashes(['a', 'b'])).toEqual(['hash of a', 'hash of b'])
    expect(await store.verify()).toEqual({ rows: 2, damaged: [] })
  })

  test('in the middle of reading all rows ends the reading with its reason; the next one works', async () => {
    const schema = newSchema()
    await using store = await open(schema, 200)
    await store.add(
      Array.from({ length: 200 }, (_, index) => makeRow(`r${index}`)),
      { fingerprint },
    )
    const reading = (async () => {
      let seen = 0
      for await (const _ of store.iterate()) if (++seen === 10) await database.stop()
    })()
    await expect(reading).rejects.toThrow(/database cannot be reached.*repeat the call/)
    await expect(store.count()).rejects.toThrow(/database cannot be reached/)
    await expect(open(newSchema(), 0)).rejects.toThrow(/database cannot be reached/)
    await database.start()
    let seen = 0
    for await (const _ of store.iterate()) seen++
    expect(seen).toBe(200)
  })
})

describe('opening', () => {
  test('keeps the description that the store was made with, and needs none to open it', async () => {
    const schema = newSchema()
    await (await open(schema)).close()
    await using store = await openPostgresStore(database.url, { schema, connections: 1 })
    expect(store.description).toEqual(description)
  })

  test("refuses another model's store, another width, a newer schema, a missing store and a name that needs quoting", async () => {
    const schema = newSchema()
    await (await open(schema)).close()
    const asked = (parts: object) =>
      openPostgresStore(database.url, { schema, connections: 1, description: { ...description, ...parts } })
    await expect(asked({ fingerprint: 'model-b' })).rejects.toThrow(/another model.*"model-a".*"model-b"/)
    await expect(asked({ memoryWidth: 5 })).rejects.toThrow(/memoryWidth.*4.*5/)
    await expect(openPostgresStore(database.url, { schema: newSchema() })).rejects.toThrow(/There is no store/)
    await expect(open('a"; DROP SCHEMA public; --')).rejects.toThrow(/no name for the store's schema/)
    await query(`UPDATE ${schema}.store SET schema_version = 99`)
    await expect(open(schema)).rejects.toThrow(/newer version.*99/)
  })

  test('says what a database without pgvector lacks', async () => {
    const bare = await openDatabase({ vectors: false })
    try {
      await expect(openPostgresStore(bare.url, { description, connections: 1 })).rejects.toThrow(/no pgvector/)
    } finally {
      await bare.close()
    }
  })

  test('says that retrieval vectors are too wide for pgvector', async () => {
    const wide = { ...description, vectorWidth: 20_000 }
    const attempt = openPostgresStore(database.url, { description: wide, schema: newSchema(), connections: 1 })
    await expect(attempt).rejects.toThrow(/too wide.*16000.*20000/)
  })
})

test('a row that was changed behind the store is named, and repaired by removing it', async () => {
  const schema = newSchema()
  await using store = await open(schema)
  await store.add([makeRow('a#0'), makeRow('a#1', { chunk: 1 }), makeRow('b#0')], { fingerprint })
  await store.putDocuments([record('a', { chunks: 2 }), record('b')])
  await query(`UPDATE ${schema}.rows SET memory = set_byte(memory, 20, 99) WHERE id = 'a#1'`)
  await query(`UPDATE ${schema}.documents SET chunks = 2 WHERE document_id = 'b'`)
  expect(await store.verify({ repair: true })).toEqual({
    rows: 3,
    damaged: [
      { id: 'a#1', documentId: 'a', problem: 'its checksum differs' },
      { documentId: 'b', problem: 'its record has another checksum' },
      { documentId: 'b', problem: 'it has 1 of its 2 rows; missing: 1' },
    ],
  })
  expect(await store.verify()).toEqual({ rows: 2, damaged: [] })
  expect(await store.add([makeRow('a#0'), makeRow('a#1', { chunk: 1 })], { fingerprint })).toEqual({
    added: 1,
    replaced: 0,
    unchanged: 1,
  })
})

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { KnowledgeBase } from '../../src/knowledge/knowledge-base.ts'
import { openStore, placeName } from '../../src/knowledge/place.ts'
import { importInto } from '../../src/knowledge/transfer.ts'
import { openDatabase } from '../store/pglite.ts'
import { fakeModel } from './fake-model.ts'

/** A real server, when one is named; else PGlite, which takes one connection. */
const named = process.env.CLARA_TEST_POSTGRES
const database = named === undefined ? await openDatabase() : undefined
afterAll(() => database?.close())

function place(schema: string): string {
  const url = new URL(named ?? database?.url ?? '')
  url.searchParams.set('schema', schema)
  if (named === undefined) url.searchParams.set('connections', '1')
  return url.href
}

test('a knowledge base in PostgreSQL', async () => {
  const [one, other] = ['one', 'other'].map((name) => place(`clara_${name}_${process.pid}_${Date.now().toString(36)}`))
  if (one === undefined || other === undefined) throw new Error('two places')
  expect(await openStore(one)).toBeUndefined()
  const clara = fakeModel()
  {
    await using knowledge = await KnowledgeBase.open(one, { clara })
    await knowledge.add([
      { id: 'oslo', text: 'Oslo is the capital of Norway.', metadata: { country: 'no' } },
      { id: 'rome', text: 'Rome is the capital of Italy.', metadata: { country: "it'" } },
    ])
  }
  await using knowledge = await KnowledgeBase.open(one, { clara })
  const { sources } = await knowledge.ask('capital of Italy', { topK: 1 })
  expect(sources).toMatchObject([{ documentId: 'rome', metadata: { country: "it'" } }])
  expect(await knowledge.search('capital', { filter: { metadata: { country: "it'" } } })).toHaveLength(1)
  const stats = await knowledge.stats()
  expect(stats).toMatchObject({ driver: 'postgresql', documents: 2, chunks: 2 })
  expect(stats?.place).not.toMatch(/:postgres@/)
  await expect(KnowledgeBase.open(one, { clara: fakeModel({ fingerprint: 'other' }) })).rejects.toThrow(
    /written by another model.*"fake".*"other"/,
  )
  await using empty = await KnowledgeBase.open(other, { clara })
  expect(await empty.count()).toBe(0)
})

test('a knowledge base moves from a folder to PostgreSQL and back', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'clara-moves-'))
  const [first, second, back] = ['first', 'second.parquet', 'back'].map((name) => join(folder, name))
  if (first === undefined || second === undefined || back === undefined) throw new Error('three places')
  try {
    const clara = fakeModel()
    const documents = ['Oslo is the capital of Norway.', 'Rome is the capital of Italy.', 'A red fox lived here.']
    {
      await using knowledge = await KnowledgeBase.open(first, { clara })
      await knowledge.add(documents.map((text, index) => ({ id: `d${index}`, text })))
      expect(await knowledge.export(second)).toBe(3)
    }
    const schema = place(`clara_moved_${process.pid}_${Date.now().toString(36)}`)
    expect(await importInto(schema, second)).toBe(3)
    await using moved = await KnowledgeBase.open(schema, { clara })
    // found by the vectors that were made from memory
    expect((await moved.search('red fox', { mode: 'latent', topK: 1 }))[0]).toMatchObject({ documentId: 'd2' })
    expect(await moved.verify()).toEqual({ rows: 3, damaged: [] })
    expect(await moved.export(second)).toBe(3)
    expect(await importInto(back, second)).toBe(3)
    // into the store that keeps no vectors
    expect(await importInto(first, second)).toBe(3)
    for (const path of [first, back]) {
      await using knowledge = await KnowledgeBase.open(path, { clara })
      expect(await knowledge.add(documents.map((text, index) => ({ id: `d${index}`, text })))).toMatchObject({
        compressed: 0,
        unchanged: 3,
      })
      expect((await knowledge.search('Norway', { mode: 'latent', topK: 1 }))[0]).toMatchObject({ documentId: 'd0' })
    }
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
})

test('the password of an address is told to nobody', () => {
  expect(placeName('postgres://me:secret@host/db?schema=a')).toBe('postgres://me@host/db?schema=a')
})

import { afterAll, expect, test } from 'vitest'
import { KnowledgeBase } from '../../src/knowledge/knowledge-base.ts'
import { openStore, placeName } from '../../src/knowledge/place.ts'
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

test('the password of an address is told to nobody', () => {
  expect(placeName('postgres://me:secret@host/db?schema=a')).toBe('postgres://me@host/db?schema=a')
})

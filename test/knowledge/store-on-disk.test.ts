import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { KnowledgeBase } from '../../src/knowledge/knowledge-base.ts'
import { fakeModel } from './fake-model.ts'

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'clara-knowledge-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const documents = Array.from({ length: 40 }, (_, index) => ({
  id: `d${index}`,
  text: `Number ${index} is here. It was written on day ${index} of the year.`,
  metadata: { day: index },
}))

test('a knowledge base on disk is there again after it was closed', async () => {
  const path = join(folder, 'kept')
  const clara = fakeModel()
  {
    await using knowledge = await KnowledgeBase.open(path, { clara })
    expect(await knowledge.stats()).toBeUndefined()
    await expect(knowledge.ask('Number 7')).rejects.toThrow(/empty/)
    expect(await knowledge.add(documents)).toMatchObject({ documents: 40, unchanged: 0 })
  }
  const before = clara.compressed.length
  await using knowledge = await KnowledgeBase.open(path, { clara })
  const { answer, sources } = await knowledge.ask('Number 7 is here', {
    topK: 1,
    filter: { metadata: { day: { lt: 9 } } },
  })
  expect(answer).toBe('one two three')
  expect(sources).toMatchObject([{ documentId: 'd7', chunk: 0, start: 0, metadata: { day: 7 } }])
  const { chunks = 0, ...stats } = (await knowledge.stats()) ?? {}
  expect(stats).toMatchObject({ driver: 'lancedb', documents: 40, incomplete: 0, memory: 'int8', fingerprint: 'fake' })
  expect(chunks).toBe(before)
  expect(await knowledge.add(documents)).toEqual({ documents: 40, compressed: 0, unchanged: chunks })
  expect(clara.compressed).toHaveLength(before)
  expect(await knowledge.verify()).toEqual({ rows: chunks, damaged: [] })
  await knowledge.compact()

  expect(await knowledge.remove(['d7'])).toBeGreaterThan(0)
  expect((await knowledge.search('Number 7 is here', { topK: 50 })).map(({ documentId }) => documentId)).not.toContain(
    'd7',
  )
})

test('another model is refused, by a message that names both, and another kind of memory', async () => {
  const path = join(folder, 'models')
  {
    await using knowledge = await KnowledgeBase.open(path, { clara: fakeModel(), memory: 'float16' })
    await knowledge.add(documents.slice(0, 2))
  }
  await expect(KnowledgeBase.open(path, { clara: fakeModel({ fingerprint: 'other' }) })).rejects.toThrow(
    /written by another model.*"fake".*"other"/,
  )
  await expect(KnowledgeBase.open(path, { clara: fakeModel(), memory: 'int8' })).rejects.toThrow(
    /keeps memory as float16/,
  )
  await using again = await KnowledgeBase.open(path, { clara: fakeModel() })
  const [best] = await again.search('Number 1 is here', { topK: 1 })
  expect(best?.score).toBeCloseTo(1, 3)
})

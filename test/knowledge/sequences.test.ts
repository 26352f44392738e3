import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import fc from 'fast-check'
import { expect, test } from 'vitest'
import type { KnowledgeDocument } from '../../src/knowledge/chunks.ts'
import { KnowledgeBase } from '../../src/knowledge/knowledge-base.ts'
import { fakeModel, memoryOf } from './fake-model.ts'

type Step =
  | { readonly do: 'add' | 'interrupt'; readonly documents: readonly KnowledgeDocument[] }
  | { readonly do: 'remove'; readonly ids: readonly string[] }
  | { readonly do: 'search'; readonly question: string; readonly version: number }
  | { readonly do: 'reopen' | 'compact' }

const id = fc.constantFrom('a', "b'", 'c#1', 'd\n')
const word = fc.constantFrom('oslo', 'opera', 'water', 'house', 'Tea.', 'coal.')
const document = fc
  .record({ id, words: fc.array(word, { minLength: 1, maxLength: 40 }), version: fc.nat(2) })
  .map(({ id, words, version }): KnowledgeDocument => ({ id, text: words.join(' '), metadata: { version } }))
const documents = fc.uniqueArray(document, { minLength: 1, maxLength: 4, selector: ({ id }) => id })
const step: fc.Arbitrary<Step> = fc.oneof(
  { weight: 5, arbitrary: documents.map((documents) => ({ do: 'add', documents }) as const) },
  { weight: 2, arbitrary: documents.map((documents) => ({ do: 'interrupt', documents }) as const) },
  { weight: 2, arbitrary: fc.array(id, { maxLength: 2 }).map((ids) => ({ do: 'remove', ids }) as const) },
  {
    weight: 2,
    arbitrary: fc.record({ do: fc.constant('search' as const), question: word, version: fc.nat(2) }),
  },
  { weight: 2, arbitrary: fc.constantFrom('reopen', 'compact').map((name) => ({ do: name }) as const) },
)

/** The documents as a map knows them, against what a knowledge base finds. */
async function compare(knowledge: KnowledgeBase, model: ReadonlyMap<string, KnowledgeDocument>): Promise<void> {
  const stats = await knowledge.stats()
  expect(stats?.documents ?? 0).toBe(model.size)
  expect(stats?.incomplete ?? 0).toBe(0)
  expect((await knowledge.verify()).damaged).toEqual([])
  if (model.size === 0) {
    expect(await knowledge.count()).toBe(0)
    return
  }
  const found = await knowledge.search('oslo', { topK: 999, candidates: 999, mode: 'latent' })
  expect(found).toHaveLength(await knowledge.count())
  expect(new Set(found.map(({ documentId }) => documentId))).toEqual(new Set(model.keys()))
  for (const [documentId, { text, metadata }] of model) {
    const passages = found.filter((one) => one.documentId === documentId).sort((one, other) => one.chunk - other.chunk)
    expect(passages.map(({ chunk }) => chunk)).toEqual(passages.map((_, index) => index))
    // one after the other they are the whole text, less white space between them: a word and its full stop may be parted
    const ends = [0, ...passages.map(({ end }) => end)]
    const between = [...passages.map(({ start }) => start), text.length].map((start, index) => {
      expect(start).toBeGreaterThanOrEqual(ends[index] ?? 0)
      return text.slice(ends[index], start)
    })
    expect(between.join('').trim()).toBe('')
    for (const passage of passages) {
      expect(passage.text).toBe(text.slice(passage.start, passage.end))
      expect(passage.metadata).toEqual(metadata)
    }
  }
}

async function run(steps: readonly Step[], open: (clara: ReturnType<typeof fakeModel>) => Promise<KnowledgeBase>) {
  const clara = fakeModel()
  let knowledge = await open(clara)
  const model = new Map<string, KnowledgeDocument>()
  try {
    for (const one of steps) {
      if (one.do === 'add') {
        await knowledge.add(one.documents)
        for (const added of one.documents) model.set(added.id, added)
        const before = clara.compressed.length
        expect(await knowledge.add(one.documents)).toMatchObject({ compressed: 0 })
        expect(clara.compressed).toHaveLength(before)
      } else if (one.do === 'interrupt') {
        // cut off after the first passages were stored, once with another text; adding the same again completes it
        const stop = new AbortController()
        const other = one.documents.map((given) => ({ ...given, text: `${given.text} water oslo`.repeat(9) }))
        const onProgress = () => stop.abort(new Error('enough'))
        await knowledge.add(other, { signal: stop.signal, onProgress }).catch((error: unknown) => {
          expect(error).toMatchObject({ message: 'enough' })
        })
        await knowledge.add(one.documents)
        for (const added of one.documents) model.set(added.id, added)
      } else if (one.do === 'remove') {
        await knowledge.remove(one.ids)
        for (const removed of one.ids) model.delete(removed)
      } else if (one.do === 'search' && model.size > 0) {
        const filter = { metadata: { version: one.version } }
        const sources = await knowledge.search(one.question, { topK: 99, filter })
        expect(sources.every(({ metadata }) => metadata.version === one.version)).toBe(true)
        const [best] = await knowledge.search(one.question, { topK: 1, filter, mode: 'latent' })
        const all = sources.map(({ text }) => clara.score(memoryOf(one.question), memoryOf(text)))
        if (all.length > 0) expect(best?.score).toBeCloseTo(Math.max(...all), 1)
      } else if (one.do === 'compact') await knowledge.compact()
      else if (one.do === 'reopen') {
        await knowledge.close()
        knowledge = await open(clara)
      }
    }
    await compare(knowledge, model)
  } finally {
    await knowledge.close()
  }
}

test('in memory: after any sequence of adding, interrupting, removing and searching it holds what a map would', async () => {
  const lasting = fc.array(
    step.filter((one) => one.do !== 'reopen'),
    { minLength: 3, maxLength: 12 },
  )
  await fc.assert(
    fc.asyncProperty(lasting, (steps) => run(steps, (clara) => KnowledgeBase.open({ clara }))),
    { numRuns: 30 },
  )
}, 60_000)

test('on disk: the same, and after reopening', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'clara-sequences-'))
  let place = 0
  try {
    await fc.assert(
      fc.asyncProperty(fc.array(step, { minLength: 3, maxLength: 8 }), async (steps) => {
        const path = join(folder, String(place++))
        await run(steps, (clara) => KnowledgeBase.open(path, { clara }))
      }),
      { numRuns: 4 },
    )
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}, 60_000)

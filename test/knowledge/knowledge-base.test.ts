import { describe, expect, test } from 'vitest'
import { KnowledgeBase } from '../../src/knowledge/knowledge-base.ts'
import { fakeModel, memoryOf } from './fake-model.ts'

const oslo = { id: 'oslo', text: 'Oslo is the capital of Norway.', metadata: { country: 'no' } }
const rome = { id: 'rome', text: 'Rome is the capital of Italy.', metadata: { country: 'it' } }
const tea = { id: 'tea', text: 'Green leaves and hot water.' }

async function openFilled() {
  const clara = fakeModel()
  const knowledge = await KnowledgeBase.open({ clara })
  await knowledge.add([oslo, rome, tea])
  return { clara, knowledge }
}

describe('adding', () => {
  test('the same again compresses nothing; another text under the same id replaces the document', async () => {
    const { clara, knowledge } = await openFilled()
    expect(await knowledge.add([oslo, tea])).toEqual({ documents: 2, compressed: 0, unchanged: 2 })
    expect(clara.compressed).toHaveLength(3)

    const longer = { ...tea, text: 'Green leaves and hot water. Seven minutes later it is bitter.' }
    expect(await knowledge.add([longer])).toEqual({ documents: 1, compressed: 1, unchanged: 1 })
    expect(await knowledge.count({ documentIds: ['tea'] })).toBe(2)

    expect(await knowledge.add([{ ...tea, text: 'Seven minutes later it is bitter.' }])).toMatchObject({
      compressed: 1,
    })
    expect(await knowledge.count({ documentIds: ['tea'] })).toBe(1)
    const [found] = await knowledge.search('leaves water bitter', { topK: 5, filter: { documentIds: ['tea'] } })
    expect(found?.text).toBe('Seven minutes later it is bitter.')
    expect(await knowledge.count()).toBe(3)
  })

  test('other metadata counts as another content', async () => {
    const { knowledge } = await openFilled()
    expect(await knowledge.add([{ ...oslo, metadata: { country: 'NO' } }])).toMatchObject({
      compressed: 1,
      unchanged: 0,
    })
    expect(await knowledge.search('Oslo', { topK: 1 })).toMatchObject([
      { documentId: 'oslo', metadata: { country: 'NO' } },
    ])
  })

  test('a passage is the text between its offsets, with the title in front where it fits', async () => {
    const clara = fakeModel()
    await using knowledge = await KnowledgeBase.open({ clara })
    const text = ' One two three four five six. Seven eight nine ten eleven twelve.\n'
    await knowledge.add([
      { id: 'short', text, metadata: { title: 'Numbers' } },
      { id: 'long', text, metadata: { title: 'A title of far too many words' } },
    ])
    expect(clara.compressed).toEqual([
      'Numbers: One two three four five six.',
      'Numbers: Seven eight nine ten eleven twelve.',
      'One two three four five six.',
      'Seven eight nine ten eleven twelve.',
    ])
    const found = await knowledge.search('seven', { topK: 9 })
    expect(found).toHaveLength(4)
    for (const { documentId, text: read, start, end, chunk, id, metadata } of found) {
      expect(read).toBe((documentId === 'short' ? 'Numbers: ' : '') + text.slice(start, end))
      expect(id).toBe(`${documentId}#${chunk}`)
      expect(Object.keys(metadata)).toEqual(['title'])
    }
  })

  test('nothing is stored when a document is at fault', async () => {
    const { knowledge } = await openFilled()
    const fresh = { id: 'fresh', text: 'New.' }
    await expect(knowledge.add([fresh, { id: '', text: 'a' }])).rejects.toThrow(/no id.*non-empty string/)
    await expect(knowledge.add([fresh, { id: 'x', text: ' \n' }])).rejects.toThrow(/"x" is empty/)
    await expect(knowledge.add([fresh, fresh])).rejects.toThrow(/"fresh" comes twice/)
    await expect(knowledge.add([fresh, { id: 'x', text: 'a', metadata: { 'clara.place': 1 } }])).rejects.toThrow(
      /key "clara\.place"/,
    )
    expect(await knowledge.count()).toBe(3)
  })

  test('what was stored before an interruption stays, and the rest follows the next time', async () => {
    const clara = fakeModel()
    await using knowledge = await KnowledgeBase.open({ clara })
    const documents = Array.from({ length: 50 }, (_, index) => ({ id: `d${index}`, text: `Number ${index}.` }))
    const stop = new AbortController()
    const onProgress = ({ done }: { done: number }) => {
      if (done > 0) stop.abort(new Error('enough'))
    }
    await expect(knowledge.add(documents, { signal: stop.signal, onProgress })).rejects.toThrow('enough')
    const kept = await knowledge.count()
    expect(kept).toBeGreaterThan(0)
    expect(kept).toBeLessThan(50)
    expect(await knowledge.add(documents)).toEqual({ documents: 50, compressed: 50 - kept, unchanged: kept })
    expect(clara.compressed).toHaveLength(50)
  })
})

describe('finding', () => {
  test("orders by the model's score, the best first, and gives all there are", async () => {
    const { clara, knowledge } = await openFilled()
    const found = await knowledge.search('capital of Italy', { topK: 10 })
    expect(found.map(({ documentId }) => documentId)).toEqual(['rome', 'oslo', 'tea'])
    for (const { score, text } of found) {
      // int8 memory is within half a step of the exact one
      expect(score).toBeCloseTo(clara.score(memoryOf('capital of Italy'), memoryOf(text)), 1)
    }
    expect(found[0]?.score).toBeCloseTo(3, 1)
    expect(await knowledge.search('capital of Italy')).toHaveLength(2)
  })

  test('float32 memory gives the exact score, and flat similarity works', async () => {
    for (const similarity of ['maxsim', 'flat'] as const) {
      const clara = fakeModel({ similarity })
      await using knowledge = await KnowledgeBase.open({ clara, memory: 'float32' })
      await knowledge.add([oslo, rome, tea])
      const [best] = await knowledge.search(rome.text, { topK: 1 })
      expect(best?.documentId).toBe('rome')
      expect(best?.score).toBeCloseTo(similarity === 'flat' ? 1 : 6, 5)
    }
  })

  test('a filter narrows it', async () => {
    const { knowledge } = await openFilled()
    expect(await knowledge.search('capital of Italy', { filter: { metadata: { country: 'no' } } })).toMatchObject([
      { documentId: 'oslo', metadata: { country: 'no' } },
    ])
    await expect(knowledge.ask('capital', { filter: { documentIds: ['none'] } })).rejects.toThrow(
      /No passage passes the filter/,
    )
  })

  test('says what is wrong with a question', async () => {
    const { knowledge } = await openFilled()
    await expect(knowledge.ask(' ')).rejects.toThrow(/question is empty/)
    await expect(knowledge.ask('a'.repeat(10_000))).rejects.toThrow(/10000 characters.*at most 512/)
    for (const topK of [0, -1, 1.5, Number.NaN]) {
      await expect(knowledge.ask('capital', { topK })).rejects.toThrow(/topK cannot be .*integer from 1/)
    }
    await using empty = await KnowledgeBase.open({ clara: fakeModel() })
    await expect(empty.ask('capital')).rejects.toThrow(/knowledge base is empty.*kb\.add/)
  })
})

describe('answering', () => {
  test('reads the memories of its sources, the best first, and counts what they take', async () => {
    const { clara, knowledge } = await openFilled()
    const { answer, sources, usage } = await knowledge.ask('capital of Italy', { topK: 2 })
    expect(answer).toBe('one two three')
    expect(sources.map(({ documentId }) => documentId)).toEqual(['rome', 'oslo'])
    expect(clara.read).toHaveLength(2)
    clara.read.forEach(({ tokens }, index) => {
      const exact = memoryOf(sources[index]?.text ?? '').tokens
      tokens.forEach((value, at) => {
        expect(Math.abs(value - (exact[at] ?? Number.NaN))).toBeLessThan(0.51)
      })
    })
    expect(usage.promptTokens).toEqual({ memory: 3 + 12, text: 3 + 12 })
    expect(usage.ms.retrieve).toBeLessThanOrEqual(usage.ms.firstToken)
    expect(usage.ms.firstToken).toBeLessThanOrEqual(usage.ms.total)
  })

  test('streams the same answer, and stops when told', async () => {
    const { knowledge } = await openFilled()
    const pieces: string[] = []
    for await (const piece of knowledge.askStream('capital', { maxNewTokens: 2 })) pieces.push(piece)
    expect(pieces).toEqual([' one', ' two'])
    const stop = new AbortController()
    const stream = knowledge.askStream('capital', { signal: stop.signal })
    await stream.next()
    stop.abort(new Error('enough'))
    await expect(stream.next()).rejects.toThrow('enough')
  })

  test('removed documents are found no more', async () => {
    const { knowledge } = await openFilled()
    expect(await knowledge.remove(['rome', 'none'])).toBe(1)
    const { sources } = await knowledge.ask('capital of Italy', { topK: 5 })
    expect(sources.map(({ documentId }) => documentId)).toEqual(['oslo', 'tea'])
  })
})

test('a path is refused until there is a store on disk; a closed knowledge base says so', async () => {
  const clara = fakeModel()
  await expect(KnowledgeBase.open('./kb', { clara })).rejects.toThrow(
    /"\.\/kb" cannot be opened.*in memory only.*open\(\{ clara \}\)/,
  )
  const knowledge = await KnowledgeBase.open({ clara })
  await knowledge.close()
  await expect(knowledge.add([oslo])).rejects.toThrow(/closed/)
})

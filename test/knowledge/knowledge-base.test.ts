import { describe, expect, test } from 'vitest'
import type { Memory } from '../../src/clara/encoder.ts'
import { KnowledgeBase } from '../../src/knowledge/knowledge-base.ts'
import type { SearchOptions } from '../../src/knowledge/search.ts'
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
    const documents = Array.from({ length: 100 }, (_, index) => ({ id: `d${index}`, text: `Number ${index}.` }))
    const stop = new AbortController()
    const onProgress = ({ done }: { done: number }) => {
      if (done > 0) stop.abort(new Error('enough'))
    }
    await expect(knowledge.add(documents, { signal: stop.signal, onProgress })).rejects.toThrow('enough')
    const kept = await knowledge.count()
    expect(kept).toBeGreaterThan(0)
    expect(kept).toBeLessThan(100)
    expect(await knowledge.add(documents)).toEqual({ documents: 100, compressed: 100 - kept, unchanged: kept })
    // nothing is compressed twice
    expect(clara.compressed).toHaveLength(100)
  })
})

describe('finding', () => {
  test("orders by the model's score, the best first, and gives all there are", async () => {
    const { clara, knowledge } = await openFilled()
    const found = await knowledge.search('capital of Italy', { topK: 10 })
    expect(found.map(({ documentId }) => documentId)).toEqual(['rome', 'oslo', 'tea'])
    for (const { score, text } of found) {
      // int8 memory is within half a step of the exact one
      expect(score).toBeCloseTo(clara.score(memoryOf('capital of Italy'), memoryOf(text)) / 3, 1)
    }
    expect(found[0]?.score).toBeCloseTo(1, 1)
    expect(await knowledge.search('capital of Italy')).toHaveLength(2)
  })

  test('float32 memory gives the exact score, and flat similarity works', async () => {
    for (const similarity of ['maxsim', 'flat'] as const) {
      const clara = fakeModel({ similarity })
      await using knowledge = await KnowledgeBase.open({ clara, memory: 'float32' })
      await knowledge.add([oslo, rome, tea])
      const [best] = await knowledge.search(rome.text, { topK: 1 })
      expect(best?.documentId).toBe('rome')
      expect(best?.score).toBeCloseTo(1, 5)
    }
  })

  test('a filter narrows it', async () => {
    const { knowledge } = await openFilled()
    expect(await knowledge.search('capital of Italy', { filter: { metadata: { country: 'no' } } })).toMatchObject([
      { documentId: 'oslo', metadata: { country: 'no' } },
    ])
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
    clara.read.forEach((read, index) => {
      const { tokens } = read as Memory
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

describe('what is found', () => {
  test('nothing relevant: the answer says so, without sources, and the model is not asked', async () => {
    const { clara, knowledge } = await openFilled()
    for (const options of [
      { filter: { documentIds: ['none'] } },
      { minScore: 0.99 },
      { mode: 'text' as const, nothingFound: 'Nothing relevant was found.' },
    ]) {
      const { answer, sources, usage } = await knowledge.ask('chimpanzees', options)
      expect({ answer, sources }).toEqual({ answer: 'Nothing relevant was found.', sources: [] })
      expect(usage.promptTokens).toEqual({ memory: 0, text: 0 })
    }
    expect((await knowledge.ask('chimpanzees', { minScore: 1, nothingFound: 'Ingenting.' })).answer).toBe('Ingenting.')
    expect(clara.read).toEqual([])
    expect(await knowledge.search('capital of Italy', { minScore: 0.95 })).toMatchObject([{ documentId: 'rome' }])
  })

  test('by words alone, by latent space alone, and by both', async () => {
    const { knowledge } = await openFilled()
    const ids = async (options: SearchOptions) =>
      (await knowledge.search('Green capital', { topK: 9, ...options })).map(({ documentId }) => documentId)
    const byWords = await knowledge.search('Green capital', { mode: 'text', topK: 9 })
    expect(byWords.map(({ documentId }) => documentId)[0]).toBe('tea')
    expect(byWords[0]?.textScore).toBeGreaterThan(byWords[1]?.textScore ?? Number.NaN)
    const latent = await knowledge.search('Green capital', { mode: 'latent', topK: 9 })
    expect(latent.every(({ textScore }) => textScore === undefined)).toBe(true)
    const scores = latent.map(({ score }) => score)
    expect(scores).toEqual([...scores].sort((a, b) => b - a))
    expect(await ids({})).toHaveLength(3)
    expect(await ids({ order: 'score' })).toEqual(latent.map(({ documentId }) => documentId))
    expect(await ids({ weights: { latent: 0 } })).toEqual(byWords.map(({ documentId }) => documentId))
    await expect(ids({ weights: { latent: 0, text: 0 } })).rejects.toThrow(/weights cannot be 0 for both/)
    await expect(ids({ candidates: 0 })).rejects.toThrow(/candidates cannot be 0.*integer from 1/)
  })
})

describe('reading the text of some', () => {
  test('expand: the best are read as text, the rest from memory', async () => {
    const { clara, knowledge } = await openFilled()
    const { sources, usage } = await knowledge.ask('capital of Italy', { topK: 3, expand: 1 })
    expect(usage.expanded).toBe(1)
    expect(clara.read.map((one) => ('text' in one ? one.text : 'memory'))).toEqual([rome.text, 'memory', 'memory'])
    expect(sources).toHaveLength(3)
    const auto = await knowledge.ask('Rome is the capital of Italy', { topK: 3, expand: 'auto' })
    expect(auto.usage.expanded).toBeGreaterThan(0)
    for (const expand of [-1, 0.5]) {
      await expect(knowledge.ask('capital', { expand })).rejects.toThrow(/expand cannot be/)
    }
  })
})

describe('conversations', () => {
  const turns = [
    { role: 'user', content: 'What is the capital of Norway?' },
    { role: 'assistant', content: 'Oslo.' },
    { role: 'user', content: 'And of Italy?' },
  ] as const

  test('pass on as many of the latest turns as fit, the question last', async () => {
    const { clara, knowledge } = await openFilled()
    const { question } = await knowledge.chat(turns)
    // eight words fit: the first turn, of six, does not
    expect(question).toBe('Oslo.\nAnd of Italy?')
    expect(clara.asked).toEqual({ question })
    expect((await knowledge.chat(turns.slice(0, 1))).question).toBe(turns[0].content)
  })

  test('are condensed by the model where that is asked for', async () => {
    const { clara, knowledge } = await openFilled()
    const pieces = knowledge.chatStream(turns, { history: 'condense' })
    await pieces.next()
    expect(clara.asked.question).toBe('Rewritten question?')
    await expect(knowledge.chat(turns.slice(0, 2))).rejects.toThrow(/does not end with a question/)
  })
})

test('a closed knowledge base says so', async () => {
  const clara = fakeModel()
  const knowledge = await KnowledgeBase.open({ clara })
  await knowledge.close()
  await expect(knowledge.add([oslo])).rejects.toThrow(/closed/)
  await expect(knowledge.search('Oslo')).rejects.toThrow(/closed/)
})

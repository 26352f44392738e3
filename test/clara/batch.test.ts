import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  compressorBatch,
  type EncodedDocument,
  generatorBatch,
  type PoolingOptions,
  packPrompts,
} from '../../src/clara/batch.ts'
import { compressorConfig } from '../../src/clara/config.ts'
import { answerPrompt, documentSlot, trainingPrompt } from '../../src/clara/prompts.ts'
import type { HostTensor } from '../../src/graph/dtype.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'
import { answerSample, encodeText } from '../../src/training/stages/samples.ts'
import { openStage1Evaluation } from '../../src/training/stages/stage1.ts'
import { tinyModel, tinyTexts } from './tiny.ts'

const proportional = compressorConfig.parse({ memory: 'mean', proportional: true, similarity: 'maxsim' })
const numbers = (tensor: HostTensor | undefined) => Array.from(tensor?.data ?? [], Number)

/** A document of `length` text tokens: two before the text and one behind it. */
const documentOf = (length: number, firstId = 100): EncodedDocument => ({
  ids: [1, 2, ...Array.from({ length }, (_, index) => firstId + index), 3],
  text: [2, 2 + length],
  memoryTokens: 0,
})

describe('a batch of documents', () => {
  const pooling: PoolingOptions = { config: proportional, rate: 4, fixedCount: 2 }

  test('is padded on the left, and no position sees padding', () => {
    for (const attention of ['causal', 'bidirectional'] as const) {
      const documents = [documentOf(5), documentOf(1, 200), documentOf(3, 300)]
      const { feeds } = compressorBatch(documents, 9, { ...pooling, config: { ...proportional, attention } })
      expect(feeds['ids']?.dims).toEqual([3, 8])
      expect(numbers(feeds['ids'])).toEqual(
        [
          [1, 2, 100, 101, 102, 103, 104, 3],
          [9, 9, 9, 9, 1, 2, 200, 3],
          [9, 9, 1, 2, 300, 301, 302, 3],
        ].flat(),
      )
      const starts = [0, 4, 2]
      const bias = numbers(feeds['bias'])
      for (let at = 0; at < bias.length; at++) {
        const [row, query, key] = [Math.floor(at / 64), Math.floor(at / 8) % 8, at % 8]
        const start = starts[row] ?? 0
        const seen = query >= start && key >= start && (attention === 'bidirectional' || key <= query)
        expect(bias[at] === 0).toBe(seen)
        if (!seen) expect(bias[at]).toBeLessThan(-1e8)
      }
    }
  })

  test('takes memory from the text alone, whose last window may be short', () => {
    const idf = Float32Array.from({ length: 400 }, (_, id) => id / 1000)
    const config = { ...proportional, memory: 'salient' as const }
    const { feeds, memoryCounts } = compressorBatch([documentOf(6), documentOf(2, 200)], 9, { ...pooling, config, idf })
    expect(memoryCounts).toEqual([2, 1])
    expect(feeds['window']?.dims).toEqual([3, 4])
    const places = numbers(feeds['window'])
    const kept = numbers(feeds['windowBias']).map((bias) => bias === 0)
    const used = [0, 4, 8].map((row) => places.slice(row, row + 4).filter((_, column) => kept[row + column]))
    // rows of nine positions; the second document begins at position four of its row
    expect(used).toEqual([
      [2, 3, 4, 5],
      [6, 7],
      [9 + 4 + 2, 9 + 4 + 3],
    ])
    const rarity = numbers(feeds['idf']).filter((_, at) => kept[at])
    const ids = [100, 101, 102, 103, 104, 105, 200, 201]
    expect(rarity).toEqual(ids.map((id) => Math.fround(id / 1000)))
  })

  test('gives an empty document one memory token, from the token behind its start', () => {
    const { feeds, memoryCounts } = compressorBatch([documentOf(0)], 9, pooling)
    expect(memoryCounts).toEqual([1])
    expect(numbers(feeds['window'])).toEqual([2])
  })
})

/** Prompts over few tokens, so that they often begin alike; labels are what follows the prompt. */
const prompts = fc.array(
  fc
    .tuple(fc.array(fc.integer({ min: 5, max: 6 }), { minLength: 1, maxLength: 8 }), fc.integer({ min: 1, max: 8 }))
    .map(([ids, promptLength]) => ({ ids, promptLength: Math.min(promptLength, ids.length) })),
  { minLength: 1, maxLength: 4 },
)

describe('packed prompts', () => {
  test('show every token of a prompt exactly what stands before it in that prompt', () => {
    fc.assert(
      fc.property(prompts, (list) => {
        const row = packPrompts(list, [])
        const visible = (at: number) =>
          row.ids.flatMap((id, key) => {
            const seen = key <= at && (row.segments[key] === 0 || row.segments[key] === row.segments[at])
            return seen ? [[id, row.positions[key]]] : []
          })
        const expected = list.flatMap(({ ids, promptLength }) =>
          ids.slice(promptLength).map((target, index) => {
            const prefix = ids.slice(0, promptLength + index)
            return { target, context: prefix.map((id, position) => [id, position]) }
          }),
        )
        expect(row.labels.map(({ position, target }) => ({ target, context: visible(position) }))).toEqual(expected)
        const alone = list.reduce((sum, { ids }) => sum + ids.length, 0)
        expect(row.ids.length).toBeLessThanOrEqual(alone)
      }),
      { numRuns: 500 },
    )
  })

  test('compute their common beginning once', () => {
    const row = packPrompts(
      [
        { ids: [1, 2, 3, 7, 8], promptLength: 4 },
        { ids: [1, 2, 3, 9, 8], promptLength: 4 },
      ],
      [],
    )
    expect(row.ids).toEqual([1, 2, 3, 7, 8, 9, 8])
    expect(row.positions).toEqual([0, 1, 2, 3, 4, 3, 4])
    expect(row.segments).toEqual([0, 0, 0, 1, 1, 2, 2])
  })
})

describe('the generator reads', () => {
  const options = { padId: 0, isMemory: (id: number) => id === 50, memoryCounts: [3, 1, 2], labelWeight: 1 }
  const rowOf = (ids: number[], documents: number[], labels: { position: number; target: number }[] = []) => ({
    ids,
    positions: ids.map((_, at) => at),
    segments: ids.map(() => 0),
    labels,
    documents,
  })

  test("the documents' memory in the order in which the prompt names them", () => {
    const feeds = generatorBatch([rowOf([7, 50, 50, 8, 50, 50, 50], [2, 0]), rowOf([50, 7], [1])], options)
    expect(numbers(feeds['isMemory'])).toEqual([0, 1, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0, 1, 0])
    const rows = numbers(feeds['memoryIndex']).filter((_, at) => numbers(feeds['isMemory'])[at] === 1)
    expect(rows).toEqual([4, 5, 0, 1, 2, 3])
  })

  test('no prompt whose slots and memories differ in number, unless nothing is learned from it', () => {
    const label = [{ position: 1, target: 7 }]
    expect(() => generatorBatch([rowOf([50, 7], [0], label)], options)).toThrow(/1 memory slots for 3 memory tokens/)
    expect(() => generatorBatch([rowOf([50, 50, 7], [1], label)], options)).toThrow(/2 memory slots for 1 memory/)
    // a prompt that was cut inside its memory has no label left
    const cut = generatorBatch([rowOf([7, 50], [0])], options)
    expect(numbers(cut['memoryIndex'])).toEqual([0, 0])
    expect(numbers(cut['targets'])).toEqual([])
  })
})

describe('on a model', () => {
  let runtime: Runtime
  beforeAll(async () => {
    runtime = await openRuntime({ threads: 1 })
  })
  afterAll(() => runtime.close())

  test('packed prompts over documents of unequal memory have exactly the losses of the same prompts alone', async () => {
    const compressor = { memory: 'mean', proportional: true, similarity: 'maxsim' } as const
    const { tokenizer, options, samples, rate } = await tinyModel(runtime, { compressor })
    const documents = tinyTexts.map((text) => encodeText(text, samples))
    const questions = [
      { question: 'What was closed?', answer: 'The bridges.' },
      { question: 'What fell for nine days?', answer: 'Rain' },
      { question: 'What was closed?', answer: 'The whole city was.' },
      { question: 'Who?', answer: 'No one.' },
    ]
    const slots = documents.map(({ text: [start, end] }) =>
      documentSlot({ count: samples.memoryCount(end - start), differentMemTokens: false }),
    )
    expect(new Set(slots.map(([part]) => part?.text)).size).toBe(3)
    const order = [1, 0, 2]
    const packed = answerSample(
      order.map((index) => documents[index] as EncodedDocument),
      questions,
      samples,
      0,
    ).row
    const alone = questions.map(({ question, answer }) => {
      const messages = answerPrompt(
        question,
        order.map((index) => slots[index] ?? []),
      )
      return packPrompts([trainingPrompt(tokenizer, messages, answer, 256)], order)
    })
    expect(packed.ids.length).toBeLessThan(alone.reduce((sum, { ids }) => sum + ids.length, 0) / 2)

    const evaluation = await openStage1Evaluation(options)
    const losses = async (rows: typeof alone) => {
      const { nll } = await evaluation.outputs({ documents, rows, rate })
      return numbers(nll)
    }
    const expected: number[] = []
    for (const row of alone) expected.push(...(await losses([row])))
    // beside another row, so that it is padded
    const together = await losses([{ ...packed, documents: order }, alone[1] as (typeof alone)[number]])
    expect(together.length).toBe(expected.length + (alone[1]?.labels.length ?? 0))
    expected.forEach((loss, label) => {
      expect(Math.abs((together[label] ?? Number.NaN) - loss)).toBeLessThan(1e-5)
    })
    // the losses depend on which memory stands where, or the comparison would prove little
    const swapped = await losses([{ ...packed, documents: [2, 0, 1] }])
    expect(Math.max(...swapped.map((loss, label) => Math.abs(loss - (expected[label] ?? 0))))).toBeGreaterThan(1e-3)
    await evaluation.close()
  })
})

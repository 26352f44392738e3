import { readFile, rename } from 'node:fs/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { Clara } from '../../../src/clara/clara.ts'
import { QUERY_PROJECTION, reasonersParameter } from '../../../src/clara/compressor.ts'
import { loadModel } from '../../../src/clara/model.ts'
import { readLastCheckpoint } from '../../../src/training/checkpoint.ts'
import { readMetrics } from '../../../src/training/metrics.ts'
import { packRun } from '../../../src/training/stages/pack.ts'
import { runStage } from '../../../src/training/stages/run.ts'
import { salient, type TinyData, tinyData } from './tiny-run.ts'

let data: TinyData
beforeAll(async () => {
  data = await tinyData()
})
afterAll(() => data[Symbol.asyncDispose]())

const at = (name: string) => `${data.folder}/${name}`
const pools = () => [{ file: at('pools.jsonl'), task: 'answer' }]

/** Settings of a stage that retrieves among the six candidates of each tiny question. */
const retrieving = (stage: string, output: string, changes: Record<string, unknown> = {}) => ({
  stage,
  output: at(output),
  memoryCache: at('memory'),
  steps: 4,
  lora: { rank: 4, dropout: 0 },
  retrieval: { topK: 2, poolSize: 6 },
  data: pools(),
  ...changes,
})
const run = (settings: Record<string, unknown>, more: object = {}) =>
  runStage({ config: data.config(settings), ...more })

async function figures(output: string, kind: 'training' | 'evaluation', figure = 'loss'): Promise<number[]> {
  const lines = await readMetrics(at(output))
  return lines.filter((line) => line.kind === kind).map(({ values }) => values[figure] ?? Number.NaN)
}

const kinds = {
  tokens: { compressor: {}, differentMemTokens: true, compressionRates: [4] },
  salient: { compressor: salient, compressionRates: [4, 2] },
}

describe.each(['tokens', 'salient'] as const)('memory %s', (memory) => {
  const own = kinds[memory]
  const name = (stage: string) => `${memory}-${stage}`

  test('retrieval pretraining learns which candidate answers; a second run compresses nothing', async () => {
    const evaluation = { every: 0, samples: 6, data: pools() }
    const pretraining = (output: string) => {
      const changes = { ...own, steps: 12, batchSize: 6, learningRate: 0.02, evaluation }
      return retrieving('stage2_pretrain_retrieval', name(output), changes)
    }
    const first = await run(pretraining('alone'))
    expect(first.compressed).toBe(6 * own.compressionRates.length)
    const losses = await figures(name('alone'), 'training')
    expect(losses.at(-1)).toBeLessThan(0.5 * (losses[0] ?? 0))
    const [before, after] = await figures(name('alone'), 'evaluation', 'mrr')
    expect(after).toBeGreaterThan(before ?? 0)

    const again = await run(pretraining('again'))
    expect(again.compressed).toBe(0)
    expect(await figures(name('again'), 'training')).toEqual(losses)
  })

  test('three stages on one another leave a model whose memory stage 3 did not touch, and whose questions are read by their own adapter', async () => {
    const mixed = [{ file: at('passages.jsonl'), task: 'answer' }]
    await run({ ...own, stage: 'stage1', output: at(name('stage1')), steps: 3, lora: { rank: 4, dropout: 0 } })
    const second = { ...own, data: mixed, steps: 2, initialise: at(name('stage1')), lora: { rank: 4, dropout: 0 } }
    await run({ ...second, stage: 'stage1_2', output: at(name('stage1_2')) })
    const third = { ...own, learningRate: 0.01 }
    const pretrained = retrieving('stage2_pretrain_retrieval', name('pretrained'), third)
    await run({ ...pretrained, initialise: at(name('stage1_2')) })
    await run({ ...retrieving('stage2', name('stage2'), third), initialise: at(name('pretrained')) })

    const [before, between, after] = await Promise.all(
      ['stage1_2', 'pretrained', 'stage2'].map((stage) => readLastCheckpoint(at(name(stage)))),
    )
    const learned = (checkpoint: typeof before) =>
      new Set(
        [...(checkpoint?.parameters.keys() ?? [])].map(
          (parameter) => /\.(\w+_adapter)\./.exec(parameter)?.[1] ?? parameter,
        ),
      )
    expect(learned(between)).toEqual(new Set(['query_reasoner_adapter']))
    expect(learned(after)).toEqual(new Set(['query_reasoner_adapter', 'decoder_adapter']))

    for (const stage of ['stage1_2', 'stage2']) {
      await packRun({ runFolder: at(name(stage)), modelFolder: at(name(`${stage}-model`)), which: 'last' })
    }
    const models = await Promise.all(['stage1_2', 'stage2'].map((stage) => loadModel(at(name(`${stage}-model`)))))
    const texts = ['Oslo lies at the end of a fjord.', 'A red fox.']
    const memories = await Promise.all(
      models.map(async (model) => {
        await using clara = await Clara.open(model, { threads: 1, weights: 'fp32' })
        return { documents: await clara.compressDocuments(texts), questions: await clara.compressQuestions(texts) }
      }),
    )
    const [older, newer] = memories
    expect(newer?.documents.map(({ tokens }) => Buffer.from(tokens.buffer))).toEqual(
      older?.documents.map(({ tokens }) => Buffer.from(tokens.buffer)),
    )
    // before stage 3 the compressor reads questions too
    expect(older?.questions).toEqual(older?.documents)
    expect(newer?.questions[0]?.shape).toEqual(newer?.documents[0]?.shape)
    expect(newer?.questions).not.toEqual(newer?.documents)
    await using clara = await Clara.load(at(name('stage2-model')), { threads: 1 })
    const [answered] = await clara.generateFromQuestions(['Who?'], [texts], { topK: 1, maxNewTokens: 2 })
    expect(answered?.documents).toHaveLength(1)
  })

  test("the query reasoner begins as the compressor's copy; a fresh generator forgets", async () => {
    const still = { ...own, steps: 1, learningRate: 1e-30, initialise: at(name('stage1')), generator: 'fresh' }
    await run(retrieving('stage2', name('still'), still))
    const [taught, begun] = await Promise.all(['stage1', 'still'].map((stage) => readLastCheckpoint(at(name(stage)))))
    for (const [parameter, values] of begun?.parameters ?? []) {
      if (parameter.includes('.query_reasoner_adapter.')) {
        const encoder = [...(taught?.parameters ?? [])].find(([name]) => reasonersParameter(name) === parameter)
        expect(values).toEqual(encoder?.[1])
      } else if (parameter.includes('.lora_B.')) {
        expect(values.every((value) => Math.abs(value) < 1e-20)).toBe(true)
      }
    }
  })
})

describe('a projection of questions', () => {
  const rates = { compressor: salient, compressionRates: [4], learningRate: 0.01 }
  const projecting = { topK: 2, poolSize: 6, projection: true }

  test("begins as the inverse covariance of the documents' memory, learns, and is part of the model", async () => {
    await run({ ...rates, stage: 'stage1', output: at('plain'), steps: 2 })
    const settings = { ...rates, initialise: at('plain'), retrieval: projecting }
    await run(retrieving('stage2_pretrain_retrieval', 'begun', { ...settings, steps: 1, learningRate: 1e-30 }))
    await run(retrieving('stage2_pretrain_retrieval', 'learned', settings))
    for (const name of ['begun', 'learned']) {
      await packRun({ runFolder: at(name), modelFolder: at(`${name}-model`), which: 'last' })
    }
    const [begun, learned] = await Promise.all(['begun', 'learned'].map((name) => loadModel(at(`${name}-model`))))
    const [first, later] = [begun, learned].map((model) => model?.parameters.get(QUERY_PROJECTION))
    expect(later?.data).not.toEqual(first?.data)

    // (C + λ) times its inverse is a multiple of the identity
    if (!begun || !learned || !first || !later) throw new Error('two models with a projection')
    const width = begun.base.config.hidden_size
    const texts = JSON.parse(`[${(await readFile(at('pools.jsonl'), 'utf8')).trim().split('\n')[0]}]`)[0].candidates
    await using clara = await Clara.open(begun, { threads: 1, weights: 'fp32' })
    const memories = await clara.compressDocuments(
      texts.map(({ title, text }: { title: string; text: string }) => `${title}: ${text}`),
    )
    const directions = memories.flatMap(({ tokens }) =>
      Array.from({ length: tokens.length / width }, (_, token) => {
        const row = [...tokens.subarray(token * width, (token + 1) * width)]
        return row.map((value) => value / Math.hypot(...row))
      }),
    )
    const mean = (of: (row: readonly number[]) => number) =>
      directions.reduce((sum, row) => sum + of(row), 0) / directions.length
    const centre = Array.from({ length: width }, (_, place) => mean((row) => row[place] ?? 0))
    const covariance = centre.map((left, i) =>
      centre.map((right, j) => mean((row) => ((row[i] ?? 0) - left) * ((row[j] ?? 0) - right))),
    )
    const ridge = covariance.reduce((sum, row, i) => sum + (row[i] ?? 0), 0) / width
    const product = (i: number, j: number) =>
      covariance.reduce(
        (sum, row, k) => sum + ((row[i] ?? 0) + (i === k ? ridge : 0)) * Number(first.data[k * width + j]),
        0,
      )
    const scale = product(0, 0)
    for (const [i, j] of [
      [1, 1],
      [5, 5],
      [0, 1],
      [3, 2],
      [7, 20],
    ] as const) {
      expect(product(i, j) / scale).toBeCloseTo(Number(i === j), 1)
    }
    const trace = Array.from({ length: width }, (_, i) => Number(first.data[i * (width + 1)])).reduce((a, b) => a + b)
    expect(trace / width).toBeCloseTo(1, 2)

    // memory of a question is what it would be without, times the matrix, at the embeddings' norm
    const parameters = new Map(learned.parameters)
    parameters.delete(QUERY_PROJECTION)
    await using without = await Clara.open({ ...learned, parameters }, { threads: 1, weights: 'fp32' })
    const [plain] = await without.compressQuestions(['Where did a dam break?'])
    for (const lowMemory of [false, true]) {
      await using model = await Clara.open(learned, { threads: 1, weights: 'fp32', lowMemory })
      const [projected] = await model.compressQuestions(['Where did a dam break?'])
      expect(projected?.shape).toEqual(plain?.shape)
      for (let token = 0; token < (plain?.shape[0] ?? 0); token++) {
        const row = [...(plain?.tokens.subarray(token * width, (token + 1) * width) ?? [])]
        const expected = Array.from({ length: width }, (_, out) =>
          row.reduce((sum, value, place) => sum + value * Number(later.data[out * width + place]), 0),
        )
        const found = [...(projected?.tokens.subarray(token * width, (token + 1) * width) ?? [])]
        const [norm, wanted] = [Math.hypot(...expected), Math.hypot(...row)]
        expect(Math.hypot(...found)).toBeCloseTo(wanted, 3)
        expected.forEach((value, place) => {
          expect(found[place]).toBeCloseTo((value * wanted) / norm, 3)
        })
      }
      // documents do not pass it
      expect(await model.compressDocuments(['Oslo.'])).toEqual(await without.compressDocuments(['Oslo.']))
    }
  })

  test('is taken over by the stages behind it, which must want it', async () => {
    const settings = { ...rates, initialise: at('learned') }
    await expect(run(retrieving('stage2', 'unwanted', settings))).rejects.toThrow(
      /has a projection, which this run would leave out.*retrieval\.projection/s,
    )
    await run(retrieving('stage2', 'wanted', { ...settings, steps: 1, learningRate: 1e-30, retrieval: projecting }))
    const [before, after] = await Promise.all(['learned', 'wanted'].map((name) => readLastCheckpoint(at(name))))
    expect(after?.parameters.get(QUERY_PROJECTION)).toEqual(before?.parameters.get(QUERY_PROJECTION))
  })
})

test('stage 2 learns its answers by heart', async () => {
  const changes = { compressor: salient, steps: 25, batchSize: 6, learningRate: 0.02 }
  const evaluation = { every: 0, samples: 6, data: pools() }
  await run(retrieving('stage2', 'memorised', { ...changes, evaluation }))
  const losses = await figures('memorised', 'training')
  expect(losses.at(-1)).toBeLessThan(0.5 * (losses[0] ?? 0))
  const [before, after] = await figures('memorised', 'evaluation')
  expect(after).toBeLessThan(0.6 * (before ?? 0))
})

describe.each([
  ['stage2', 'dataset'],
  ['stage2', 'mined'],
  ['stage2_pretrain_retrieval', 'random'],
  ['stage2_pretrain_retrieval', 'mined'],
] as const)('%s with negatives: %s', (stage, negatives) => {
  const output = (name: string) => `${stage}-${negatives}-${name}`
  const settings = (name: string, changes: Record<string, unknown> = {}) =>
    retrieving(stage, output(name), {
      compressor: salient,
      compressionRates: [4, 2],
      steps: 5,
      retrieval: { topK: 2, poolSize: 4, negatives, refresh: 2, mineAmong: 4 },
      ...changes,
    })

  test('a run that was interrupted goes on to the same numbers, without the run that it began with', async () => {
    const dropout = { lora: { rank: 4, dropout: 0.1 } }
    await run({ ...settings('start'), stage: 'stage1', steps: 1, data: pools(), retrieval: undefined })
    await run(settings('whole', { ...dropout, initialise: at(output('start')) }))
    const cut = settings('cut', { ...dropout, initialise: at(output('start')) })
    const controller = new AbortController()
    const progress = {
      step: ({ step }: { step: number }) => {
        if (step === 3) controller.abort()
      },
    }
    expect(await run(cut, { signal: controller.signal, progress })).toMatchObject({ reason: 'aborted', step: 3 })
    await rename(at(output('start')), at(output('elsewhere')))
    expect(await run(cut, { resume: true })).toMatchObject({ reason: 'finished', compressed: 0 })
    const [whole, resumed] = await Promise.all(['whole', 'cut'].map((name) => readLastCheckpoint(at(output(name)))))
    expect(resumed?.parameters).toEqual(whole?.parameters)
    expect(await figures(output('cut'), 'training')).toEqual(await figures(output('whole'), 'training'))
  })
})

test.each(['stage2', 'stage2_pretrain_retrieval'])('%s learns with the base in 8 bits', async (stage) => {
  const settings = (name: string) =>
    retrieving(stage, `${stage}-${name}`, { compressor: salient, steps: 2, batchSize: 6 })
  await run(settings('exact'))
  await run({ ...settings('rounded'), frozenWeights: 'int8' })
  const [exact, rounded] = [await figures(`${stage}-exact`, 'training'), await figures(`${stage}-rounded`, 'training')]
  expect(rounded).not.toEqual(exact)
  // scores are divided by a small temperature, which makes much of rounding
  for (const [step, loss] of exact.entries()) expect(Math.abs(loss - (rounded[step] ?? Number.NaN))).toBeLessThan(0.5)
})

test.each(['stage2', 'stage2_pretrain_retrieval'])(
  '%s: the loss curve does not depend on the micro-batches of a step',
  async (stage) => {
    // one batch holds all questions, so that both settings see the same ones at every step
    const changes = { compressor: salient, steps: 4, retrieval: { topK: 2, poolSize: 6, inBatch: false } }
    await run(retrieving(stage, `${stage}-one`, { ...changes, batchSize: 6 }))
    await run(retrieving(stage, `${stage}-three`, { ...changes, batchSize: 2, accumulate: 3 }))
    const [one, three] = [await figures(`${stage}-one`, 'training'), await figures(`${stage}-three`, 'training')]
    expect(one).toHaveLength(4)
    for (const [step, loss] of one.entries()) expect(Math.abs(loss - (three[step] ?? Number.NaN))).toBeLessThan(1e-4)
  },
)

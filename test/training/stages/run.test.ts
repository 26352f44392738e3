import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { openRuntime } from '../../../src/runtime/runtime.ts'
import { readLastCheckpoint } from '../../../src/training/checkpoint.ts'
import { readMetrics } from '../../../src/training/metrics.ts'
import { controlBatches } from '../../../src/training/stages/evaluation.ts'
import { runStage } from '../../../src/training/stages/run.ts'
import type { SampleOptions } from '../../../src/training/stages/samples.ts'
import * as stage1 from '../../../src/training/stages/stage1.ts'
import { tinyModel } from '../../clara/tiny.ts'
import { salient, type TinyData, tinyData } from './tiny-run.ts'

vi.mock('../../../src/training/stages/stage1.ts', { spy: true })

let data: TinyData
beforeAll(async () => {
  data = await tinyData()
})
afterAll(() => data[Symbol.asyncDispose]())

const output = (name: string) => `${data.folder}/${name}`

/** Figures of the steps of a run. */
async function curve(folder: string, figure = 'loss'): Promise<number[]> {
  const lines = await readMetrics(folder)
  return lines.filter(({ kind }) => kind === 'training').map(({ values }) => values[figure] ?? Number.NaN)
}

describe('the loss of ten steps with a fixed seed', () => {
  // Computed by this program itself: they change only when training changes.
  const golden = {
    tokens: {
      loss: [7.282696, 6.864037, 6.786267, 6.607934, 6.235964, 6.66953, 6.276134, 5.803515, 5.867491, 5.68294],
      mse: [0.210924, 0.200383, 0.136904, 0.098465, 0.063558, 0.044002, 0.031825, 0.028495, 0.025966, 0.028677],
    },
    salient: {
      loss: [7.23032, 6.853237, 6.808784, 6.607557, 6.256314, 6.699423, 6.261231, 5.699102, 5.893745, 5.705087],
      mse: [],
    },
  }

  test.each([
    ['tokens', { differentMemTokens: true }],
    ['salient', { compressor: salient, compressionRates: [4, 2, 8] }],
  ] as const)('is the committed one: memory %s', async (memory, changes) => {
    const folder = output(`golden-${memory}`)
    await runStage({ config: data.config({ output: folder, ...changes }) })
    const expected = golden[memory]
    const losses = await curve(folder)
    expect(losses).toHaveLength(10)
    losses.forEach((loss, step) => {
      expect(Math.abs(loss - (expected.loss[step] ?? Number.NaN)), `step ${step + 1} of ${losses}`).toBeLessThan(1e-4)
    })
    const distances = (await curve(folder, 'mse')).filter(Number.isFinite)
    expect(distances).toHaveLength(expected.mse.length)
    distances.forEach((mse, step) => {
      expect(Math.abs(mse - (expected.mse[step] ?? Number.NaN)), `step ${step + 1} of ${distances}`).toBeLessThan(1e-4)
    })
  })
})

test.each([
  ['tokens', { differentMemTokens: true }],
  ['salient', { compressor: salient }],
  ['distilled', { compressor: salient, distillation: { weight: 0.5 } }],
] as const)('the loss curve does not depend on the micro-batches of a step: %s', async (name, changes) => {
  // one batch holds the whole file, so that both settings see the same rows at every step
  const file = `${data.folder}/passages.jsonl`
  const common = {
    ...changes,
    steps: 4,
    lora: { rank: 4, dropout: 0 },
    documents: { maximum: 1 },
    maxLength: 400,
    data: [{ file, task: 'qa-pairs' }],
  }
  const [one, three] = [output(`${name}-one`), output(`${name}-three`)]
  await runStage({ config: data.config({ ...common, output: one, batchSize: 6 }) })
  await runStage({ config: data.config({ ...common, output: three, batchSize: 2, accumulate: 3 }) })
  const [expected, found] = [await curve(one), await curve(three)]
  expect(expected).toHaveLength(4)
  for (const [step, loss] of expected.entries()) expect(Math.abs(loss - (found[step] ?? Number.NaN))).toBeLessThan(1e-4)
})

describe('a run', () => {
  const changes = { steps: 6, compressor: salient, compressionRates: [4, 2], accumulate: 2 }

  test('that was interrupted goes on to bit-identical parameters, dropout on', async () => {
    const whole = data.config({ ...changes, output: output('whole') })
    expect(whole.lora.dropout).toBeGreaterThan(0)
    await runStage({ config: whole })

    const cut = data.config({ ...changes, output: output('cut') })
    for (const stopAt of [2, 3]) {
      const controller = new AbortController()
      const progress = {
        step: ({ step }: { step: number }) => {
          if (step === stopAt) controller.abort()
        },
      }
      const result = await runStage({ config: cut, resume: stopAt > 2, signal: controller.signal, progress })
      expect(result).toMatchObject({ reason: 'aborted', step: stopAt })
    }
    expect(await runStage({ config: cut, resume: true })).toMatchObject({ reason: 'finished', step: 6 })

    const [left, right] = [await readLastCheckpoint(whole.output), await readLastCheckpoint(cut.output)]
    expect(right?.state.step).toBe(6)
    expect(right?.state.batches).toEqual(left?.state.batches)
    expect([...(right?.parameters.keys() ?? [])]).toEqual([...(left?.parameters.keys() ?? [])])
    for (const [name, values] of left?.parameters ?? []) {
      expect(Buffer.compare(bytes(values), bytes(right?.parameters.get(name))), name).toBe(0)
    }
    for (const [name, values] of left?.moments.second ?? []) {
      expect(Buffer.compare(bytes(values), bytes(right?.moments.second.get(name))), name).toBe(0)
    }
    expect(await curve(cut.output)).toEqual(await curve(whole.output))
    // dropout does something, or this would have tested less
    const dry = data.config({ ...changes, output: output('dry'), steps: 1, lora: { rank: 4, dropout: 0 } })
    await runStage({ config: dry })
    // with fresh adapters (B = 0) the first loss is the same; the first gradient is not
    expect((await curve(dry.output, 'gradientNorm'))[0]).not.toBe((await curve(whole.output, 'gradientNorm'))[0])
  })

  test('learns by heart what it can, and the right memory is what it learns from', async () => {
    const file = `${data.folder}/passages.jsonl`
    const config = data.config({
      output: output('memorised'),
      steps: 80,
      batchSize: 6,
      learningRate: 0.02,
      minimumLearningRateFactor: 0.1,
      lora: { rank: 8, dropout: 0 },
      compressor: salient,
      documents: { maximum: 1 },
      data: [{ file, task: 'answer' }],
      evaluation: { every: 0, samples: 6, data: [{ file, task: 'answer' }] },
    })
    await runStage({ config })
    const losses = await curve(config.output)
    expect(losses[0]).toBeGreaterThan(5)
    expect(losses.at(-1)).toBeLessThan(0.5 * (losses[0] ?? 0))
    const [before, after] = (await readMetrics(config.output)).filter(({ kind }) => kind === 'evaluation')
    expect(Object.keys(after?.values ?? {})).toEqual(['loss', 'lossWrongMemory', 'lossNoMemory', 'lossFullText'])
    for (const figure of Object.values(before?.values ?? {})) expect(figure).toBeGreaterThan(5)
    expect(after?.values['loss']).toBeLessThan(0.5 * (before?.values['loss'] ?? 0))
    for (const control of ['lossWrongMemory', 'lossNoMemory', 'lossFullText']) {
      expect(after?.values[control], control).not.toBe(after?.values['loss'])
    }
  })

  test('from the parameters of another run begins where that one ended', async () => {
    const first = data.config({ output: output('first'), steps: 3, compressor: salient })
    await runStage({ config: first })
    // a learning rate of next to nothing keeps the parameters that it began with
    const second = data.config({
      output: output('second'),
      steps: 1,
      learningRate: 1e-30,
      compressor: salient,
      initialise: first.output,
    })
    await runStage({ config: second })
    const [ended, begun] = [await readLastCheckpoint(first.output), await readLastCheckpoint(second.output)]
    expect(begun?.parameters).toEqual(ended?.parameters)
    expect(begun?.state.step).toBe(1)
  })
})

const bytes = (values: Float32Array | undefined) =>
  values ? Buffer.from(values.buffer, values.byteOffset, values.byteLength) : Buffer.alloc(0)

describe('numbers that are not finite', () => {
  test('stop the run at the step, name a parameter, and leave the last good checkpoint', async () => {
    const config = data.config({ output: output('poisoned'), steps: 8, checkpoint: { steps: 2 }, compressor: salient })
    const poisoned = 'model.layers.1.mlp.up_proj.lora_B.decoder_adapter.weight'
    const { openStage1 } = await vi.importActual<typeof stage1>('../../../src/training/stages/stage1.ts')
    let calls = 0
    vi.mocked(stage1.openStage1).mockImplementationOnce(async (options) => {
      const model = await openStage1(options)
      return {
        ...model,
        async lossAndGradients(batch, gradientOptions) {
          calls++
          if (calls === 6) (model.parameters.get(poisoned) as Float32Array)[0] = Number.NaN
          return model.lossAndGradients(batch, gradientOptions)
        },
      }
    })
    await expect(runStage({ config })).rejects.toThrow(
      /Training stopped at step 6: the loss is NaN, first in the gradient of "model\.layers\..*Earlier checkpoints are intact/,
    )
    const last = await readLastCheckpoint(config.output)
    expect(last?.state.step).toBe(4)
    for (const values of last?.parameters.values() ?? []) expect(values.every(Number.isFinite)).toBe(true)
    expect(await runStage({ config, resume: true })).toMatchObject({ reason: 'finished', step: 8 })
  })

  test('also when the learning rate is absurd', async () => {
    const config = data.config({
      output: output('absurd'),
      steps: 20,
      learningRate: 1e30,
      warmup: 0,
      checkpoint: { steps: 1 },
    })
    await expect(runStage({ config })).rejects.toThrow(/step \d+.*(loss is (NaN|Infinity)|not finite)/)
    const last = await readLastCheckpoint(config.output)
    for (const values of last?.parameters.values() ?? []) expect(values.every(Number.isFinite)).toBe(true)
  })
})

describe('the controls', () => {
  test.each([2, 3, 9, 17])('never take the right memory for the wrong one: %i passages', async (samples) => {
    const runtime = await openRuntime({ threads: 1 })
    const model = await tinyModel(runtime, { compressor: { memory: 'mean' } })
    await runtime.close()
    const options: SampleOptions = model.samples
    const records = Array.from({ length: 20 }, (_, index) => ({
      id: `${index}`,
      text: `Text number ${index} is here.`,
      qa: [{ question: 'Which text?', answers: [`number ${index}`] }],
    }))
    const file = await data.write('controls.jsonl', records.map((record) => `${JSON.stringify(record)}\n`).join(''))
    const controls = await controlBatches(file, samples, options, 4)
    const rows = (name: 'right' | 'wrong') =>
      controls[name].flatMap(({ rows: list, documents }) => list.map((row) => ({ row, documents })))
    expect(rows('right')).toHaveLength(samples)
    rows('right').forEach(({ row, documents }, index) => {
      const wrong = rows('wrong')[index]
      expect(wrong?.row.labels).toEqual(row.labels)
      const [own, other] = [documents[row.documents[0] ?? -1], wrong?.documents[wrong.row.documents[0] ?? -1]]
      expect(own?.ids).toBeDefined()
      expect(other?.ids).toBeDefined()
      expect(other?.ids).not.toEqual(own?.ids)
    })
    const isMemory = (id: number) => id === model.options.firstMemoryToken
    for (const { rows: list } of [...controls.none, ...controls.text]) {
      for (const row of list) expect(row.ids.some(isMemory) || row.documents.length > 0).toBe(false)
    }
  })
})

import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { deriveSeed } from '../../src/data/random.ts'
import { ClaraError } from '../../src/errors.ts'
import { checkpointSteps, readBestCheckpoint, readLastCheckpoint } from '../../src/training/checkpoint.ts'
import { checkConfig, type TrainingConfig, trainingConfigSchema } from '../../src/training/config.ts'
import { readMetrics } from '../../src/training/metrics.ts'
import type { TrainableModel } from '../../src/training/model.ts'
import { type TrainingProgress, train } from '../../src/training/trainer.ts'
import { linearModel, linearRows, type Row, rowBatches, trueBias, trueWeights } from './linear-model.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'clara-trainer-'))
})
afterEach(() => rm(folder, { recursive: true, force: true }))

const rows = linearRows(40)

function settings(overrides: Record<string, unknown> = {}): TrainingConfig {
  const base = { output: 'run', steps: 30, learningRate: 0.05, data: [{ file: 'rows.jsonl', task: 'answer' }], seed: 3 }
  return checkConfig({ ...base, ...overrides }, trainingConfigSchema({}), 'the test settings')
}

const valuesOf = (model: TrainableModel<never>) => [...model.parameters.values()].map((values) => [...values])

/** Squared distance to the weights that made the data. */
const distance = (model: TrainableModel<never>) => {
  const [weight = [], bias = []] = valuesOf(model)
  return weight.reduce((sum, w, index) => sum + (w - (trueWeights[index] ?? 0)) ** 2, ((bias[0] ?? 0) - trueBias) ** 2)
}

/** A progress that aborts as soon as a step is done. */
function abortAfter(step: number, controller: AbortController): TrainingProgress {
  return {
    step: (report) => {
      if (report.step === step) controller.abort()
    },
  }
}

describe('a training run', () => {
  it('finds the least-squares solution, and leaves metrics, plot and checkpoint', async () => {
    const model = linearModel()
    const result = await train({
      model,
      batches: rowBatches(rows, 8),
      config: settings({ steps: 400 }),
      runFolder: folder,
      evaluate: async () => ({ loss: distance(model) }),
    })
    expect(distance(model)).toBeLessThan(1e-4)
    expect(result).toMatchObject({ reason: 'finished', step: 400, steps: 400 })
    expect((await readLastCheckpoint(folder))?.state.step).toBe(400)
    const lines = await readMetrics(folder)
    expect(lines.filter((line) => line.kind === 'training').map((line) => line.step)).toEqual(
      Array.from({ length: 400 }, (_, index) => index + 1),
    )
    expect(lines.filter((line) => line.kind === 'evaluation').map((line) => line.step)).toEqual([0, 200, 400])
    expect(await readFile(join(folder, 'run.svg'), 'utf8')).toContain('training, smoothed')
  })

  it('gives the same parameters for 4 micro-batches as for one batch of 4 times the size', async () => {
    const whole = linearModel()
    await train({ model: whole, batches: rowBatches(rows, 8), config: settings(), runFolder: join(folder, 'whole') })
    const split = linearModel()
    // The same rows in the same order, in micro-batches of unequal size.
    const batches = rowBatches(rows, 8)
    const queue: Row[][] = []
    const halves = {
      ...batches,
      next: () => {
        if (queue.length === 0) {
          const batch = batches.next()
          queue.push(batch.slice(0, 1), batch.slice(1, 3), batch.slice(3, 4), batch.slice(4))
        }
        return queue.shift() ?? []
      },
    }
    const config = settings({ accumulate: 4 })
    await train({ model: split, batches: halves, config, runFolder: join(folder, 'split') })
    const expected = valuesOf(whole).flat()
    expect(expected).toHaveLength(4)
    for (const [index, value] of valuesOf(split).flat().entries()) {
      expect(Math.abs(value - (expected[index] ?? Number.NaN))).toBeLessThan(1e-6)
    }
    const [first] = await readMetrics(join(folder, 'split'))
    expect(first?.values.share).toBeCloseTo(1, 12)
  })

  it('derives the dropout seed from run seed, step and micro-batch', async () => {
    const model = linearModel()
    await train({
      model,
      batches: rowBatches(rows, 4),
      config: settings({ steps: 2, accumulate: 2 }),
      runFolder: folder,
    })
    expect(model.seeds).toEqual([deriveSeed(3, 1, 0), deriveSeed(3, 1, 1), deriveSeed(3, 2, 0), deriveSeed(3, 2, 1)])
    expect(new Set(model.seeds).size).toBe(4)
  })

  it('keeps the newest checkpoints and the best', async () => {
    const scores = [9, 5, 1, 4, 6, 7, 8]
    let evaluation = 0
    await train({
      model: linearModel(),
      batches: rowBatches(rows, 8),
      config: settings({ evaluation: { every: 5 }, checkpoint: { steps: 5, keep: 2 } }),
      runFolder: folder,
      evaluate: async () => ({ loss: scores[evaluation++] ?? 0 }),
    })
    expect(await checkpointSteps(folder)).toEqual([10, 25, 30])
    expect((await readBestCheckpoint(folder))?.state.step).toBe(10)
  })

  it('refuses a folder that holds another run, and a resume of nothing', async () => {
    const run = { batches: rowBatches(rows, 8), config: settings({ steps: 1 }), runFolder: folder }
    await expect(train({ ...run, model: linearModel(), resume: true })).rejects.toThrow(/nothing to resume/)
    await train({ ...run, model: linearModel() })
    await expect(train({ ...run, model: linearModel() })).rejects.toThrow(/already holds a run/)
  })

  it('stops when its minutes are over, and writes checkpoints by the clock', async () => {
    let clock = 0
    const checkpoints: number[] = []
    const result = await train({
      model: linearModel(),
      batches: rowBatches(rows, 8),
      config: settings({ minutes: 10, checkpoint: { minutes: 3, keep: 9 } }),
      runFolder: folder,
      progress: {
        step: () => {
          clock += 60_000
        },
        checkpointed: (step) => checkpoints.push(step),
      },
      now: () => clock,
    })
    expect(result).toMatchObject({ reason: 'out of time', step: 10 })
    expect(checkpoints).toEqual([3, 6, 9, 10])
  })
})

describe('early stopping', () => {
  const scores = [9, 5, 4, 6, 4, 5, 1]
  const run = (changes: object = {}, options: object = {}, first = 0) => {
    let evaluation = first
    return train({
      model: linearModel(),
      batches: rowBatches(rows, 8),
      config: settings({ evaluation: { every: 5, patience: 3 }, checkpoint: { steps: 5, keep: 2 }, ...changes }),
      runFolder: folder,
      evaluate: async () => ({ loss: scores[evaluation++] ?? 0 }),
      ...options,
    })
  }

  it('ends a run after so many evaluations without a new best, the best checkpoint kept', async () => {
    // evaluations after steps 5 to 25: 5, 4 (best), 6, 4 (no better), 5
    expect(await run()).toMatchObject({ reason: 'stopped improving', step: 25, best: { step: 10, value: 4 } })
    expect(await checkpointSteps(folder)).toEqual([10, 20, 25])
    // there is nothing to go on with
    expect(await run({}, { resume: true })).toMatchObject({ reason: 'stopped improving', step: 25 })
  })

  it('remembers over an interruption how long there was no new best', async () => {
    const controller = new AbortController()
    const interrupted = { signal: controller.signal, progress: abortAfter(17, controller) }
    expect(await run({}, interrupted)).toMatchObject({ reason: 'aborted', step: 17 })
    expect(await run({}, { resume: true }, 4)).toMatchObject({ reason: 'stopped improving', step: 25 })
  })

  it('goes on with more patience', async () => {
    await run()
    const longer = { evaluation: { every: 5, patience: 4 } }
    expect(await run(longer, { resume: true }, 6)).toMatchObject({ reason: 'finished', step: 30, best: { step: 30 } })
  })
})

describe('resuming', () => {
  it('continues bit for bit after aborts, with metrics as if it had never stopped', async () => {
    const options = { config: settings({ accumulate: 2 }), noise: 0.1 }
    const straight = linearModel(options.noise)
    const straightFolder = join(folder, 'straight')
    await train({ model: straight, batches: rowBatches(rows, 6), config: options.config, runFolder: straightFolder })

    const brokenFolder = join(folder, 'broken')
    let model = linearModel(options.noise)
    for (const [session, stopAt] of [4, 13, 22, 31].entries()) {
      model = linearModel(options.noise)
      const controller = new AbortController()
      const result = await train({
        model,
        batches: rowBatches(rows, 6),
        config: options.config,
        runFolder: brokenFolder,
        resume: session > 0,
        signal: controller.signal,
        progress: abortAfter(stopAt, controller),
      })
      expect(result.step).toBe(Math.min(30, stopAt))
      expect(result.reason).toBe(stopAt > 30 ? 'finished' : 'aborted')
    }
    expect(valuesOf(model)).toEqual(valuesOf(straight))
    const [one, other] = [await readLastCheckpoint(straightFolder), await readLastCheckpoint(brokenFolder)]
    expect(other?.moments).toEqual(one?.moments)
    expect(other?.state.batches).toEqual(one?.state.batches)
    expect(await readMetrics(brokenFolder)).toEqual(await readMetrics(straightFolder))
  })

  it('goes back to the last checkpoint after a crash and drops the metrics past it', async () => {
    const config = settings({ checkpoint: { steps: 5 } })
    const straight = linearModel(0.1)
    await train({ model: straight, batches: rowBatches(rows, 6), config, runFolder: join(folder, 'straight') })

    const crashFolder = join(folder, 'crash')
    const crash: TrainingProgress = {
      step: ({ step }) => {
        if (step === 13) throw new Error('pulled the plug')
      },
    }
    const run = { config, runFolder: crashFolder }
    await expect(
      train({ ...run, model: linearModel(0.1), batches: rowBatches(rows, 6), progress: crash }),
    ).rejects.toThrow('pulled the plug')
    const resumed = linearModel(0.1)
    await train({ ...run, model: resumed, batches: rowBatches(rows, 6), resume: true })
    expect(valuesOf(resumed)).toEqual(valuesOf(straight))
    expect(await readMetrics(crashFolder)).toEqual(await readMetrics(join(folder, 'straight')))
  })

  it('refuses other settings by name, but lets budget and folders change', async () => {
    const run = { batches: rowBatches(rows, 6), runFolder: folder }
    const controller = new AbortController()
    await train({
      ...run,
      model: linearModel(),
      config: settings(),
      signal: controller.signal,
      progress: abortAfter(2, controller),
    })
    const other = settings({ learningRate: 0.01, lora: { rank: 8 }, minutes: 3 })
    const refused = train({ ...run, model: linearModel(), config: other, resume: true })
    await expect(refused).rejects.toThrow(/other settings: learningRate, lora\.alpha, lora\.rank\./)
    const moved = settings({ minutes: 3, output: 'elsewhere', checkpoint: { keep: 4 } })
    expect((await train({ ...run, model: linearModel(), config: moved, resume: true })).step).toBe(30)
  })

  it('refuses data of another size and a model of another shape', async () => {
    const config = settings({ steps: 2 })
    const run = { config, runFolder: folder }
    await train({ ...run, model: linearModel(), batches: rowBatches(rows, 6) })
    const otherData = train({ ...run, model: linearModel(), batches: rowBatches(linearRows(39), 6), resume: true })
    await expect(otherData).rejects.toThrow(/belongs to other data/)
    const model = linearModel()
    const wider = { ...model, parameters: new Map([...model.parameters, ['extra', new Float32Array(2)]]) }
    const otherModel = train({ ...run, model: wider, batches: rowBatches(rows, 6), resume: true })
    await expect(otherModel).rejects.toThrow(/do not fit this model: extra/)
  })
})

describe('numbers that are not finite', () => {
  /** Breaks the gradient (or the loss) of one parameter at one step. */
  function poisoned(step: number, where: 'loss' | 'bias', value: number): TrainableModel<readonly Row[]> {
    const model = linearModel()
    let call = 0
    return {
      ...model,
      async lossAndGradients(batch, options) {
        const result = await model.lossAndGradients(batch, options)
        call += 1
        if (call !== step) return result
        if (where === 'loss') return { ...result, loss: value }
        return { ...result, gradients: new Map([...result.gradients, ['bias', Float32Array.of(value)]]) }
      },
    }
  }

  it.each([Number.NaN, Number.POSITIVE_INFINITY])('stop the run and name step and parameter (%s)', async (value) => {
    const model = poisoned(8, 'bias', value)
    const before: unknown[] = []
    const failed = train({
      model,
      batches: rowBatches(rows, 8),
      config: settings({ checkpoint: { steps: 3 } }),
      runFolder: folder,
      progress: { step: () => before.splice(0, 1, valuesOf(model)) },
    })
    await expect(failed).rejects.toThrow(ClaraError)
    await expect(failed).rejects.toThrow(/step 8.*"bias"/)
    expect(valuesOf(model)).toEqual(before[0])
    expect(await checkpointSteps(folder)).toEqual([3, 6])
    expect((await readMetrics(folder)).at(-1)?.step).toBe(7)
  })

  it('stop the run when only the loss is broken', async () => {
    const batches = rowBatches(rows, 8)
    const failed = train({ model: poisoned(2, 'loss', Number.NaN), batches, config: settings(), runFolder: folder })
    await expect(failed).rejects.toThrow(/step 2: the loss is NaN, all gradients are finite/)
  })

  it('never reach a checkpoint, even when the update itself overflows', async () => {
    // Finite gradients, infinite parameters: the learning rate alone overflows float32.
    const run = { model: linearModel(), batches: rowBatches(rows, 8), runFolder: folder }
    const config = settings({ learningRate: 1e39, warmup: 0, checkpoint: { steps: 1 } })
    await expect(train({ ...run, config })).rejects.toThrow(/"weight" is not finite after step 1/)
    expect(await readdir(join(folder, 'checkpoints')).catch(() => [])).toEqual([])
  })
})

describe('bad steps', () => {
  it('a step without labels is an error that says so', async () => {
    const model = { ...linearModel(), labelledTokens: () => 0 }
    const failed = train({ model, batches: rowBatches(rows, 8), config: settings(), runFolder: folder })
    await expect(failed).rejects.toThrow(/Step 1 has nothing to learn from/)
  })

  it('a parameter without gradient is an error that names it', async () => {
    const model = linearModel()
    const partial: TrainableModel<readonly Row[]> = {
      ...model,
      async lossAndGradients(batch, options) {
        const result = await model.lossAndGradients(batch, options)
        return { ...result, gradients: new Map([...result.gradients].slice(0, 1)) }
      },
    }
    const failed = train({ model: partial, batches: rowBatches(rows, 8), config: settings(), runFolder: folder })
    await expect(failed).rejects.toThrow(/gradient of parameter "bias" is missing/)
  })

  it('an evaluation without the named figure is an error that lists what there is', async () => {
    const failed = train({
      model: linearModel(),
      batches: rowBatches(rows, 8),
      config: settings({ evaluation: { metric: 'f1' } }),
      runFolder: folder,
      evaluate: async () => ({ 'loss.right': 1, 'loss.wrong': 2 }),
    })
    await expect(failed).rejects.toThrow(/no figure named "f1".*loss\.right, loss\.wrong/)
  })

  it('an abandoned step leaves no trace', async () => {
    const abandon = new AbortController()
    const model = linearModel()
    const cancellable: TrainableModel<readonly Row[]> = {
      ...model,
      async lossAndGradients(batch, options) {
        if (model.seeds.length === 6) abandon.abort(new Error('second Ctrl-C'))
        options.signal?.throwIfAborted()
        return model.lossAndGradients(batch, options)
      },
    }
    const config = settings({ checkpoint: { steps: 4 } })
    const run = { batches: rowBatches(rows, 8), config, runFolder: folder, abandon: abandon.signal }
    await expect(train({ ...run, model: cancellable })).rejects.toThrow('second Ctrl-C')
    expect(await checkpointSteps(folder)).toEqual([4])
  })
})

import { deriveSeed } from '../data/random.ts'
import { ClaraError } from '../errors.ts'
import { clipScale, firstNonFinite, globalNorm } from './clip.ts'
import { learningRateFactor, type TrainingConfig } from './config.ts'
import type { BatchSource, TrainableModel } from './model.ts'
import { type AdamWMoments, adamwUpdate, type NamedArrays } from './optimizer.ts'
import { learningRateAt } from './schedule.ts'

/** Settings of an update. */
export type StepConfig = Pick<
  TrainingConfig,
  | 'seed'
  | 'steps'
  | 'accumulate'
  | 'learningRate'
  | 'learningRateFactors'
  | 'schedule'
  | 'warmup'
  | 'minimumLearningRateFactor'
  | 'betas'
  | 'epsilon'
  | 'weightDecay'
  | 'clip'
>

/** What one update reports. */
export interface StepReport {
  /** Number of the update, from 1. */
  readonly step: number
  readonly loss: number
  readonly terms: Readonly<Record<string, number>>
  readonly learningRate: number
  /** Global norm before clipping. */
  readonly gradientNorm: number
  readonly samples: number
  readonly labelledTokens: number
}

/**
 * One optimizer update over `accumulate` micro-batches.
 * @throws ClaraError when loss or gradient is not finite; the parameters are as they were before the step.
 */
export async function trainStep<Batch>(options: {
  readonly model: TrainableModel<Batch>
  readonly batches: BatchSource<Batch>
  readonly moments: AdamWMoments
  readonly config: StepConfig
  readonly step: number
  readonly signal?: AbortSignal | undefined
}): Promise<StepReport> {
  const { model, batches, moments, config, step, signal } = options
  const micro: Batch[] = []
  while (micro.length < config.accumulate) micro.push(await batches.next())
  const labelledTokens = micro.reduce((sum, batch) => sum + model.labelledTokens(batch), 0)
  const samples = micro.reduce((sum, batch) => sum + model.samples(batch), 0)
  if (labelledTokens === 0) {
    throw new ClaraError(`Step ${step} has nothing to learn from: none of its ${samples} samples has a label.`, {
      hint: 'Were all answers cut off? Raise the maximal length, or drop such samples from the data. Retrieval learns from questions with a supporting candidate.',
    })
  }

  let loss = 0
  const terms: Record<string, number> = {}
  let gradients: NamedArrays = new Map()
  for (const [index, batch] of micro.entries()) {
    const result = await model.lossAndGradients(batch, {
      normaliser: labelledTokens,
      share: model.samples(batch) / samples,
      seed: deriveSeed(config.seed, step, index),
      ...(signal === undefined ? {} : { signal }),
    })
    loss += result.loss
    for (const [name, value] of Object.entries(result.terms)) terms[name] = (terms[name] ?? 0) + value
    gradients = micro.length === 1 ? result.gradients : addGradients(gradients, result.gradients)
  }

  const gradientNorm = globalNorm(gradients)
  // A sum of float32 squares cannot overflow a float64, so the norm is finite exactly when every gradient is.
  if (!Number.isFinite(loss) || !Number.isFinite(gradientNorm)) throw notFinite(step, loss, gradients)
  const learningRate = learningRateAt(step, {
    shape: config.schedule,
    peak: config.learningRate,
    minimum: config.learningRate * config.minimumLearningRateFactor,
    warmupUpdates: Math.ceil(config.warmup * config.steps),
    updates: config.steps,
  })
  adamwUpdate(model.parameters, gradients, moments, step, {
    learningRate,
    betas: config.betas,
    epsilon: config.epsilon,
    weightDecay: config.weightDecay,
    learningRateFactor: (name) => learningRateFactor(config.learningRateFactors, name),
    gradientScale: clipScale(gradientNorm, config.clip),
  })
  await model.afterUpdate?.(model.parameters)
  return { step, loss, terms, learningRate, gradientNorm, samples, labelledTokens }
}

/** Sums into arrays of its own: the model may reuse those that it handed out. */
function addGradients(sum: NamedArrays, added: NamedArrays): NamedArrays {
  if (sum.size === 0) return new Map([...added].map(([name, values]) => [name, values.slice()]))
  for (const [name, total] of sum) {
    const values = added.get(name)
    if (values?.length !== total.length) {
      throw new ClaraError(`The gradient of parameter "${name}" is missing in a micro-batch or has another size.`, {
        expected: `${total.length} numbers`,
        received: `${values?.length ?? 'none'}`,
      })
    }
    for (let index = 0; index < total.length; index++) total[index] = (total[index] ?? 0) + (values[index] ?? 0)
  }
  return sum
}

function notFinite(step: number, loss: number, gradients: NamedArrays): ClaraError {
  const parameter = firstNonFinite(gradients)
  const where = parameter === undefined ? 'all gradients are finite' : `first in the gradient of "${parameter}"`
  return new ClaraError(`Training stopped at step ${step}: the loss is ${loss}, ${where}.`, {
    expected: 'finite numbers',
    hint: 'Earlier checkpoints are intact. Lower the learning rate or the clip, or look at the data of this step.',
  })
}

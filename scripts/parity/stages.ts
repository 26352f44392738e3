import { z } from 'zod'
import { type GeneratorRow, type Prompt, packPrompts } from '../../src/clara/batch.ts'
import { MEMORY_ROWS } from '../../src/clara/compressor.ts'
import type { HostTensor } from '../../src/graph/dtype.ts'
import { clipScale, globalNorm } from '../../src/training/clip.ts'
import { adamwUpdate, createMoments, type NamedArrays } from '../../src/training/optimizer.ts'
import {
  openStage1,
  openStage1Evaluation,
  type Stage1ModelOptions,
  type StageBatch,
} from '../../src/training/stages/stage1.ts'
import { encodeText, longest, type Parity, parametersOf, poolingOf } from './model.ts'
import { comparePrompts, promptOf, type Sample, samplesOf } from './prompts.ts'
import { tolerances } from './report.ts'

/** λ of the MSE term in the published code. */
const MSE_WEIGHT = 0.1
/** Positions of `logits_tail`. */
const TAIL = 6

const losses = z.object({ loss: z.number(), mse_loss: z.number(), total: z.number() })

/** One stage of compressor and generator: prompts, losses, logits and all gradients. */
export async function compareStage(parity: Parity, stage: string): Promise<void> {
  const { report, fixture } = parity
  const samples = samplesOf(parity, stage)
  const prompts = comparePrompts(parity, stage, samples)
  const batch = stageBatch(parity, samples, prompts)
  const options = stageOptions(parity, batch)
  const expected = fixture.value(stage, losses)

  const training = await openStage1(options)
  try {
    const normaliser = training.labelledTokens(batch)
    const { loss, terms, gradients } = await training.lossAndGradients(batch, { normaliser, share: 1, seed: 0 })
    report.close(`${stage}.loss`, terms.crossEntropy, expected.loss, tolerances.loss)
    report.close(`${stage}.mse_loss`, terms.mse, expected.mse_loss, tolerances.loss)
    report.close(`${stage}.total`, loss, expected.total, tolerances.loss)
    compareGradients(parity, stage, gradients)
  } finally {
    await training.close()
  }

  const evaluation = await openStage1Evaluation(options)
  try {
    const { logits } = await evaluation.outputs({ ...batch, rows: batch.rows.map(tailOf) })
    compareLogits(parity, stage, logits)
  } finally {
    await evaluation.close()
  }
}

/** Each sample's documents, and a row of its own that reads them. */
function stageBatch({ stage1 }: Parity, samples: readonly Sample[], prompts: readonly Prompt[]): StageBatch {
  const documents = samples.flatMap(({ documents }) => documents.map((text) => encodeText(stage1, text)))
  return {
    documents,
    rows: readingRows(
      prompts,
      samples.map(({ documents }) => documents.length),
    ),
    rate: stage1.config.compr_rate,
  }
}

/** Rows whose memories lie one after the other, so many documents for each prompt. */
export function readingRows(prompts: readonly Prompt[], counts: readonly number[]): GeneratorRow[] {
  let first = 0
  return prompts.map((prompt, index) => {
    const documents = Array.from({ length: counts[index] ?? 0 }, (_, document) => first + document)
    first += documents.length
    return packPrompts([prompt], documents)
  })
}

function stageOptions({ runtime, stage1 }: Parity, { documents, rows }: StageBatch): Stage1ModelOptions {
  const ids = [...documents, ...rows].map((sequence) => sequence.ids)
  const pooling = poolingOf(stage1)
  return {
    runtime,
    base: stage1.model,
    lora: stage1.lora,
    pooling,
    memoryTokens: stage1.memoryRows.dims[0] ?? 0,
    firstMemoryToken: stage1.firstMemoryToken,
    padId: stage1.tokenizer.padId,
    positions: Math.max(pooling.width ?? 0, longest(ids)),
    dropout: 0,
    mseWeight: MSE_WEIGHT,
    parameters: parametersOf(stage1, ['encoder_adapter', 'decoder_adapter']),
  }
}

/** The same row, asked for the logits of its last positions. */
export function tailOf(row: GeneratorRow): GeneratorRow {
  const first = row.ids.length - TAIL
  return { ...row, labels: Array.from({ length: TAIL }, (_, index) => ({ position: first + index, target: 0 })) }
}

export function compareLogits({ report, fixture }: Parity, stage: string, logits: HostTensor | undefined): void {
  const expected = fixture.tensor(`${stage}.logits_tail`)
  const [rows = 0, vocabulary = 0] = logits?.dims ?? []
  const actual = logits && { dims: [rows / TAIL, TAIL, vocabulary], data: logits.data }
  report.close(`${stage}.logits_tail`, actual, expected, tolerances.logits)
}

/** Each expected gradient, and the norm over just these. */
export function compareGradients({ report, fixture }: Parity, stage: string, gradients: NamedArrays): void {
  const listed = new Map<string, Float32Array>()
  for (const [name, expected] of fixture.tensorsBehind(`${stage}.grad.`)) {
    const found = gradients.get(name === 'MEM' ? MEMORY_ROWS : name)
    const gradient = found && (name === 'MEM' ? repeated(found, expected) : found)
    const actual = gradient && {
      dims: gradient.length === expected.data.length ? expected.dims : [gradient.length],
      data: gradient,
    }
    report.close(`${stage}.grad.${name}`, actual, expected, tolerances.gradient)
    if (gradient) listed.set(name, gradient)
  }
  const norm = fixture.value(`${stage}.grad_norm`, z.number())
  report.close(`${stage}.grad_norm`, globalNorm(listed), norm, tolerances.gradientNorm)
}

/** The row of a memory token that stands at every place (different_mem_tokens: false), as often as the folder lists it. */
function repeated(row: Float32Array, { data, dims: [count = 1] }: HostTensor): Float32Array {
  if (row.length * count !== data.length) return row
  return Float32Array.from({ length: data.length }, (_, index) => row[index % row.length] ?? 0)
}

const curveCase = z.object({
  lr: z.number(),
  betas: z.tuple([z.number(), z.number()]),
  eps: z.number(),
  weight_decay: z.number(),
  clip: z.number(),
  curve: z.array(z.tuple([z.number(), z.number()])),
})

/** Ten steps on one batch: every point is [loss, mse_loss] before an update. */
export async function compareCurve(parity: Parity): Promise<void> {
  const { report, fixture, stage1 } = parity
  const settings = fixture.value('train10', curveCase)
  const samples = samplesOf(parity, 'stage1_qa')
  const prompts = samples.map((sample) => promptOf(stage1.tokenizer, sample))
  const batch = stageBatch(parity, samples, prompts)
  const model = await openStage1(stageOptions(parity, batch))
  try {
    const moments = createMoments(model.parameters)
    const normaliser = model.labelledTokens(batch)
    for (const [index, [loss, mse]] of settings.curve.entries()) {
      const { terms, gradients } = await model.lossAndGradients(batch, { normaliser, share: 1, seed: 0 })
      report.close(`train10.curve[${index}].loss`, terms.crossEntropy, loss, tolerances.curve)
      report.close(`train10.curve[${index}].mse_loss`, terms.mse, mse, tolerances.curve)
      adamwUpdate(model.parameters, gradients, moments, index + 1, {
        learningRate: settings.lr,
        betas: settings.betas,
        epsilon: settings.eps,
        weightDecay: settings.weight_decay,
        gradientScale: clipScale(globalNorm(gradients), settings.clip),
      })
    }
  } finally {
    await model.close()
  }
}

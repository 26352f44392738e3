import { MEMORY_ROWS, SALIENT } from '../../clara/compressor.ts'
import { float32, type HostTensor } from '../../graph/dtype.ts'
import type { EncodedModel } from '../../graph/onnx.ts'
import type { Resident, Session } from '../../runtime/runtime.ts'
import type { TrainableModel } from '../model.ts'
import { type LayerNoise, layerStack, takeLast, tensorOf, type Values } from './layer-stack.ts'
import { layerwiseGraphs } from './layerwise-graphs.ts'
import {
  graphOptions,
  labelCount,
  parameterOf,
  type Stage1ModelOptions,
  type StageBatch,
  stageFeeds,
} from './stage1.ts'

/** Bytes that the logits of the labels looked at together may take; a step holds a few tensors of that size. */
const LOGITS_BYTES = 2 ** 24

export interface LayerwiseOptions {
  /** Labels whose logits exist at the same time. Default: as many as fill 16 MiB. */
  readonly labelsAtOnce?: number
}

/** Stage 1 as the trainer sees it, and its loss for evaluation. */
export interface LayerwiseModel extends TrainableModel<StageBatch> {
  /** Mean negative log-likelihood of all labels, in nats, without dropout. */
  loss(batch: StageBatch): Promise<number>
  close(): Promise<void>
}

/**
 * Stages 1 and 1_2 in little memory: the same losses and gradients as `openStage1`, one layer at a time. The forward pass
 * keeps what enters each layer and nothing else; the backward pass computes a layer again before it goes back through it
 * (Chen et al. 2016, with every layer a checkpoint). The weights stay in the base's shared memory, of which the runtime
 * holds a copy of one layer and of the embedding.
 */
export async function openStage1Layerwise(
  options: Stage1ModelOptions,
  { labelsAtOnce = Math.max(1, Math.floor(LOGITS_BYTES / (4 * options.base.vocabulary))) }: LayerwiseOptions = {},
): Promise<LayerwiseModel> {
  const { runtime, base } = options
  const graphs = layerwiseGraphs(graphOptions(options))
  const opened: Session[] = []
  const open = async (model: EncodedModel) => {
    const session = await runtime.open(model, new Map(), { keepMemory: false })
    opened.push(session)
    return session
  }
  const weights: Record<string, Resident> = {}
  for (const [name, value] of base.weights) weights[name] = await runtime.share(value)
  const layer = await open(graphs.layer)
  const layers = layerStack({
    model: options,
    weights,
    layer,
    layerWithDropout: graphs.layerWithDropout ? await open(graphs.layerWithDropout) : layer,
    layerGradient: await open(graphs.layerGradient),
  })
  const sessions = {
    compressorEmbeddings: await open(graphs.compressorEmbeddings),
    compressorEmbeddingsGradient:
      graphs.compressorEmbeddingsGradient && (await open(graphs.compressorEmbeddingsGradient)),
    memory: await open(graphs.memory),
    memoryGradient: await open(graphs.memoryGradient),
    generatorEmbeddings: await open(graphs.generatorEmbeddings),
    generatorEmbeddingsGradient: await open(graphs.generatorEmbeddingsGradient),
    answer: await open(graphs.answer),
    answerGradient: await open(graphs.answerGradient),
  }
  const { compressor, generator } = layers
  const { memory: kind } = options.pooling.config
  const memoryParameters = kind === 'tokens' ? [MEMORY_ROWS] : kind === 'salient' ? Object.values(SALIENT) : []
  const names = [...layers.parameters(compressor), ...memoryParameters, ...layers.parameters(generator)]

  /** A batch's own inputs, and beside them the weights and the parameters of the parts that are no layer. */
  const valuesOf = (feeds: Record<string, HostTensor>): Values => {
    const learned = memoryParameters.map((name) => [name, parameterOf(options.parameters, name)])
    return { ...weights, ...feeds, ...Object.fromEntries(learned) }
  }

  /** Both decoders up to the states that the generator's last layer leaves. */
  const forward = async (values: Values, noise: LayerNoise | undefined, signal?: AbortSignal) => {
    const pass = { values, noise, signal }
    const documents = tensorOf(await sessions.compressorEmbeddings.run(values), 'embedded')
    const compressorStates = await layers.forward(compressor, documents, pass)
    const last = takeLast(compressorStates)
    const compressed = await sessions.memory.run({ ...values, hidden: last, embedded: documents })
    const memory = tensorOf(compressed, 'memory')
    const prompts = tensorOf(await sessions.generatorEmbeddings.run({ ...values, memory }), 'embedded')
    const generatorStates = await layers.forward(generator, prompts, pass)
    return { documents, compressorStates, last, memory, mse: compressed['mse'], generatorStates }
  }

  /** The answer's outputs, some labels at a time, so that no logits of all labels exist at once. */
  const overLabels = async (session: Session, values: Values, hidden: HostTensor) => {
    const labels = tensorOf(values, 'targets').data.length
    const sums: Record<string, HostTensor> = {}
    let start = 0
    do {
      const feeds: Values = { ...values, hidden }
      for (const name of ['labelRows', 'targets', 'labelWeights']) {
        feeds[name] = range(tensorOf(values, name), start, start + labelsAtOnce)
      }
      for (const [name, value] of Object.entries(await session.run(feeds))) addTo(sums, name, value)
      start += labelsAtOnce
    } while (start < labels)
    return sums
  }

  return {
    parameters: new Map(names.map((name) => [name, parameterOf(options.parameters, name).data as Float32Array])),
    labelledTokens: labelCount,
    samples: (batch) => batch.rows.length,
    async lossAndGradients(batch, { normaliser, share, seed, signal }) {
      const feeds = stageFeeds(batch, options, 1 / normaliser)
      const mseWeight = options.mseWeight * share
      const values = { ...valuesOf(feeds), mseWeight: float32([mseWeight], [1]) }
      const noise = options.dropout > 0 ? await layers.noise(feeds, seed) : undefined
      try {
        const pass = { values, noise, signal }
        const { documents, compressorStates, last, memory, mse, generatorStates } = await forward(values, noise, signal)
        const found: Record<string, HostTensor> = {}
        const keep = (results: Record<string, HostTensor>) => {
          for (const name of memoryParameters) addTo(found, `grad:${name}`, results[`grad:${name}`])
        }

        const answer = await overLabels(sessions.answerGradient, values, takeLast(generatorStates))
        keep(answer)
        const byAnswer = tensorOf(answer, 'grad:hidden')
        const byPrompts = await layers.backward(generator, generatorStates, byAnswer, found, pass)
        const byEmbeddings = await sessions.generatorEmbeddingsGradient.run({ ...values, memory, gradient: byPrompts })
        const byMemory = tensorOf(byEmbeddings, 'grad:memory')
        const inputs = { ...values, hidden: last, embedded: documents, gradient: byMemory }
        const compressed = await sessions.memoryGradient.run(inputs)
        keep(compressed)
        const byStates = tensorOf(compressed, 'grad:hidden')
        const byDocuments = await layers.backward(compressor, compressorStates, byStates, found, pass)
        const rows = await sessions.compressorEmbeddingsGradient?.run({ ...values, gradient: byDocuments })
        if (rows) keep(rows)

        const crossEntropy = numberOf(tensorOf(answer, 'loss'))
        const gradients = new Map(names.map((name) => [name, tensorOf(found, `grad:${name}`).data as Float32Array]))
        if (!mse) return { loss: crossEntropy, terms: { crossEntropy }, gradients }
        const terms = { crossEntropy, mse: numberOf(mse) * share }
        return { loss: crossEntropy + mseWeight * numberOf(mse), terms, gradients }
      } finally {
        await noise?.release()
      }
    },
    async loss(batch) {
      const values = valuesOf(stageFeeds(batch, options, 1 / labelCount(batch)))
      const { generatorStates } = await forward(values, undefined)
      return numberOf(tensorOf(await overLabels(sessions.answer, values, takeLast(generatorStates)), 'loss'))
    },
    async close() {
      for (const resident of Object.values(weights)) await runtime.release(resident)
      for (const session of opened) await session.close()
    },
  }
}

const numberOf = ({ data }: HostTensor) => Number(data[0])

/** Elements of a vector from `start` to `end`, or to its own end. */
function range({ dtype, data }: HostTensor, start: number, end: number): HostTensor {
  const part = data.slice(start, end)
  return { dtype, dims: [part.length], data: part }
}

/** Adds a value, if there is one, to the sum of that name, which is the first value's own array. */
function addTo(sums: Record<string, HostTensor>, name: string, value: HostTensor | undefined): void {
  const sum = sums[name]
  if (!value) return
  if (!sum) {
    sums[name] = value
    return
  }
  const [total, added] = [sum.data as Float32Array, value.data as Float32Array]
  for (let index = 0; index < total.length; index++) total[index] = (total[index] ?? 0) + (added[index] ?? 0)
}

import { gradients } from '../../autodiff/gradients.ts'
import { compressorEmbeddings, compressorMemory, MEMORY_ROWS } from '../../clara/compressor.ts'
import { answerLoss, generatorEmbeddings } from '../../clara/generator.ts'
import { type Base, declareBase, declareRole } from '../../clara/network.ts'
import { addInput, addOutput, createGraph, type Tensor } from '../../graph/graph.ts'
import type { EncodedModel } from '../../graph/onnx.ts'
import type { DecoderConfig } from '../../model/config.ts'
import { attention, decoderLayer, finalNorm } from '../../model/decoder.ts'
import { multiply } from '../../ops/elementwise.ts'
import { reshape } from '../../ops/layout.ts'
import { encodeGraph } from '../../ops/table.ts'
import type { Stage1Options } from './graph.ts'

/**
 * Stage 1 cut where only hidden states pass: embeddings, one layer, memory, answer. Each part comes with its gradient, which
 * computes the part anew from what entered it. Weights and parameters are inputs, so that one layer's graph serves them all.
 *
 * A gradient takes the gradient by the part's result as `gradient` and returns `grad:NAME` for every input that learns or
 * leads to one that does. The inputs are those of the whole graph but for `hidden`: the rows that enter a layer, or that the
 * last one left.
 */
export interface LayerwiseGraphs {
  /** -> `embedded` */
  readonly compressorEmbeddings: EncodedModel
  /** For memory 'tokens', whose embeddings learn. */
  readonly compressorEmbeddingsGradient: EncodedModel | undefined
  /** `hidden`, `positions`, `bias`, and layer 0 of `LAYER_ROLE` -> `hidden` */
  readonly layer: EncodedModel
  /** The same with dropout, where training has it: `dropout` holds the layer's own part of the noise. */
  readonly layerWithDropout: EncodedModel | undefined
  readonly layerGradient: EncodedModel
  /** `hidden`, and `embedded` for memory 'salient' -> `memory`, and `mse` for memory 'tokens' */
  readonly memory: EncodedModel
  readonly memoryGradient: EncodedModel
  /** `memory` -> `embedded` */
  readonly generatorEmbeddings: EncodedModel
  readonly generatorEmbeddingsGradient: EncodedModel
  /** `hidden` -> `loss` */
  readonly answer: EncodedModel
  /** -> `loss` and gradients; it is where they begin. */
  readonly answerGradient: EncodedModel
}

/** The adapter under whose names the layer graphs take the factors, whichever adapter they are. */
export const LAYER_ROLE = 'encoder_adapter'

export function layerwiseGraphs(options: Stage1Options): LayerwiseGraphs {
  const hasMemoryRows = options.compressor.config.memory === 'tokens'
  const layer = (name: string, dropout: boolean) =>
    part(name, options, (base) => ({ hidden: layerPart(base, options, dropout).result }))
  return {
    compressorEmbeddings: part('compressor_embeddings', options, (base) => {
      const { embedded } = compressorEmbeddings(base, compressorOptions(options))
      return { embedded }
    }),
    compressorEmbeddingsGradient: hasMemoryRows
      ? part('compressor_embeddings_gradient', options, (base) => {
          const { embedded, parameters } = compressorEmbeddings(base, compressorOptions(options))
          return gradientOutputs(undefined, parameters, embedded)
        })
      : undefined,
    layer: layer('layer', false),
    layerWithDropout: options.dropout ? layer('layer_with_dropout', true) : undefined,
    layerGradient: part('layer_gradient', options, (base) => {
      const { result, hidden, parameters } = layerPart(base, options, options.dropout)
      return gradientOutputs(undefined, new Map([['hidden', hidden], ...parameters]), result)
    }),
    memory: part('memory', options, (base) => {
      const { memory, mseLoss } = memoryPart(base, options)
      return mseLoss ? { memory, mse: mseLoss } : { memory }
    }),
    memoryGradient: part('memory_gradient', options, (base) => {
      const { memory, mseLoss, hidden, parameters } = memoryPart(base, options)
      const weight = mseLoss && addInput(base.graph, 'mseWeight', 'float32', [1])
      const loss = weight && multiply(reshape(weight, []), mseLoss)
      return gradientOutputs(loss, new Map([['hidden', hidden], ...parameters]), memory)
    }),
    generatorEmbeddings: part('generator_embeddings', options, (base) => ({
      embedded: generatorEmbeddings(base, memoryRows(base)),
    })),
    generatorEmbeddingsGradient: part('generator_embeddings_gradient', options, (base) => {
      const memory = memoryRows(base)
      return gradientOutputs(undefined, new Map([['memory', memory]]), generatorEmbeddings(base, memory))
    }),
    answer: part('answer', options, (base) => ({ loss: answerPart(base, options).loss })),
    answerGradient: part('answer_gradient', options, (base) => {
      const { loss, ...learning } = answerPart(base, options)
      return { loss, ...gradientOutputs(loss, new Map(Object.entries(learning))) }
    }),
  }
}

function part(name: string, options: Stage1Options, outputs: (base: Base) => Record<string, Tensor>): EncodedModel {
  const graph = createGraph(name)
  const base = declareBase(graph, options.config, options.vocabulary, options.positions, 'fed')
  for (const [output, tensor] of Object.entries(outputs(base))) addOutput(graph, output, tensor)
  return encodeGraph(graph)
}

/** @param result Where gradient enters from the part behind; undefined where only the loss counts. */
function gradientOutputs(
  loss: Tensor | undefined,
  wrt: ReadonlyMap<string, Tensor>,
  result?: Tensor,
): Record<string, Tensor> {
  const seeds = new Map(result ? [[result, addInput(result.graph, 'gradient', 'float32', result.shape)]] : [])
  const found = gradients(loss, [...wrt.values()], seeds)
  return Object.fromEntries([...wrt.keys()].map((name, index) => [`grad:${name}`, found[index] as Tensor]))
}

const compressorOptions = ({ compressor }: Stage1Options) =>
  ({ ...compressor, role: 'encoder_adapter', lora: undefined }) as const

const memoryRows = ({ graph, config }: Base) => addInput(graph, 'memory', 'float32', ['memories', config.hidden_size])

/** Whether a layer's window is narrower than the sequences, so that it is an input of the layer graphs. */
export const slidesWithin = ({ sliding_window: window }: DecoderConfig, positions: number): boolean =>
  window !== undefined && window < positions

function layerPart(base: Base, { config, lora, positions: longest }: Stage1Options, dropout: boolean) {
  const { graph } = base
  const [batch, length] = ['batch', 'length']
  const positions = addInput(graph, 'positions', 'int64', [batch, length])
  const attentionBias = addInput(graph, 'bias', 'float32', [batch, 1, 1, length, length])
  const hidden = addInput(graph, 'hidden', 'float32', [`${batch}*${length}`, config.hidden_size])
  const noise = dropout ? { factors: addInput(graph, 'dropout', 'float32', ['dropoutLength']) } : undefined
  const { decoder: first, parameters } = declareRole(base, LAYER_ROLE, { size: lora, layers: 1, dropout: noise })
  const window = slidesWithin(config, longest) ? addInput(graph, 'window', 'int64', []) : undefined
  const decoder = { ...first, window: () => window }
  const result = decoderLayer(decoder, 0, hidden, attention(decoder, { batch, length, positions, attentionBias }))
  return { result, hidden, parameters }
}

function memoryPart(base: Base, options: Stage1Options) {
  const dims = ['documents*documentLength', options.config.hidden_size]
  const hidden = addInput(base.graph, 'hidden', 'float32', dims)
  const embedded = addInput(base.graph, 'embedded', 'float32', dims)
  const { decoder } = declareRole(base, undefined)
  return { ...compressorMemory(base, compressorOptions(options), embedded, finalNorm(decoder, hidden)), hidden }
}

function answerPart(base: Base, options: Stage1Options) {
  const { graph, config } = base
  const hidden = addInput(graph, 'hidden', 'float32', ['rows', config.hidden_size])
  const { decoder } = declareRole(base, undefined)
  // the trainable rows are part of the head only where it is the embedding
  const learnsRows = options.compressor.config.memory === 'tokens' && config.tie_word_embeddings
  const rows = learnsRows
    ? addInput(graph, MEMORY_ROWS, 'float32', [options.compressor.memoryTokens, config.hidden_size])
    : undefined
  const table = rows && { rows, firstId: options.firstMemoryToken }
  const { loss } = answerLoss(base, finalNorm(decoder, hidden), table)
  return { loss, hidden, ...(rows ? { [MEMORY_ROWS]: rows } : {}) }
}

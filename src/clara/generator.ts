import { addInput, type Tensor } from '../graph/graph.ts'
import type { LoraSize } from '../lora/adapters.ts'
import { decode } from '../model/decoder.ts'
import { multiply, where } from '../ops/elementwise.ts'
import { crossEntropy, gather } from '../ops/indexing.ts'
import { concat, reshape, slice } from '../ops/layout.ts'
import { linear } from '../ops/matmul.ts'
import { reduceSum } from '../ops/reduce.ts'
import { type Base, type DropoutNoise, declareRole, embeddingTable, headTable } from './network.ts'

export interface GeneratorOptions {
  readonly lora: LoraSize | undefined
  /** Trainable memory-token rows, which a tied head shares, and the id of the first. */
  readonly memoryRows?: { readonly rows: Tensor; readonly firstId: number } | undefined
  readonly dropout?: DropoutNoise
}

export interface Generator {
  /** Sum over labels of weight · negative log-likelihood. */
  readonly loss: Tensor
  /** [labels] negative log-likelihood in nats. */
  readonly nll: Tensor
  /** [labels, vocabulary] */
  readonly logits: Tensor
  readonly parameters: ReadonlyMap<string, Tensor>
}

/**
 * The generator under teacher forcing (paper section 3.2): a prompt whose memory positions hold memory instead of
 * embeddings, and the loss of its labels. Inputs: `promptIds`, `promptPositions`, `memoryIndex` int64 [batch, length] (the
 * row of `memory` to stand there), `isMemory` bool [batch, length, 1], `promptBias` float32 [batch, 1, 1, length, length],
 * `labelRows` int64 [labels] (flat position whose state predicts), `targets` int64 [labels], `labelWeights` float32 [labels].
 * Logits are computed at labelled positions only.
 */
export function generator(base: Base, memory: Tensor | undefined, options: GeneratorOptions): Generator {
  const adapter = options.lora && { size: options.lora, dropout: options.dropout }
  const { decoder, parameters } = declareRole(base, adapter && 'decoder_adapter', adapter)
  const positions = addInput(base.graph, 'promptPositions', 'int64', [BATCH, LENGTH])
  const attentionBias = addInput(base.graph, 'promptBias', 'float32', [BATCH, 1, 1, LENGTH, LENGTH])
  const embedded = generatorEmbeddings(base, memory)
  const hidden = decode(decoder, embedded, { batch: BATCH, length: LENGTH, positions, attentionBias })
  return { ...answerLoss(base, hidden, options.memoryRows), parameters }
}

const [BATCH, LENGTH] = ['batch', 'length']

/** What enters the generator's first layer, as rows: embeddings, and memory where a prompt has room for it. */
export function generatorEmbeddings(base: Base, memory: Tensor | undefined): Tensor {
  const { graph, config } = base
  const ids = addInput(graph, 'promptIds', 'int64', [BATCH, LENGTH])
  let embeddings = gather(embeddingTable(base), ids)
  if (memory) {
    const index = addInput(graph, 'memoryIndex', 'int64', [BATCH, LENGTH])
    embeddings = where(addInput(graph, 'isMemory', 'bool', [BATCH, LENGTH, 1]), gather(memory, index), embeddings)
  }
  return reshape(embeddings, [-1, config.hidden_size])
}

/** The loss of the labels from the states after the last layer and the final normalisation [batch * length, hidden_size]. */
export function answerLoss(
  base: Base,
  hidden: Tensor,
  memoryRows: GeneratorOptions['memoryRows'],
): Omit<Generator, 'parameters'> {
  const { graph } = base
  const rows = gather(hidden, addInput(graph, 'labelRows', 'int64', ['labels']))
  const logits = headLogits(base, rows, memoryRows)
  const { nll } = crossEntropy(logits, addInput(graph, 'targets', 'int64', ['labels']))
  const loss = reduceSum(multiply(nll, addInput(graph, 'labelWeights', 'float32', ['labels'])))
  return { loss, nll, logits }
}

/** Logits over the vocabulary; with tied embeddings the trainable memory rows take their places in the head. */
function headLogits(base: Base, rows: Tensor, memoryRows: GeneratorOptions['memoryRows']): Tensor {
  const logits = linear(rows, headTable(base))
  if (!memoryRows || !base.config.tie_word_embeddings) return logits
  const { rows: table, firstId } = memoryRows
  const count = table.shape[0] as number
  const parts = [slice(logits, 1, 0, firstId), linear(rows, table)]
  if (firstId + count < base.vocabulary) parts.push(slice(logits, 1, firstId + count, base.vocabulary))
  return concat(parts, 1)
}

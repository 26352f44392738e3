import { addInput, type Tensor } from '../graph/graph.ts'
import type { LoraSize } from '../lora/adapters.ts'
import { decode } from '../model/decoder.ts'
import { add, cast, multiply, scalar, scale, stopGradient, subtract, where } from '../ops/elementwise.ts'
import { crossEntropy, gather } from '../ops/indexing.ts'
import { concat, reshape, slice } from '../ops/layout.ts'
import { linear, matmul } from '../ops/matmul.ts'
import { reduceSum } from '../ops/reduce.ts'
import { type Base, type DropoutNoise, declareRole, embeddingTable, headTable } from './network.ts'

export interface GeneratorOptions {
  readonly lora: LoraSize | undefined
  /** Trainable memory-token rows, which a tied head shares, and the id of the first. */
  readonly memoryRows?: { readonly rows: Tensor; readonly firstId: number } | undefined
  readonly dropout?: DropoutNoise
  /**
   * float32 [memories]: 1, or 0 for a row of the memory that is padding. A padded slot is hidden from all others, and the
   * positions behind it move up, so that the prompt reads as if the slot were not there.
   */
  readonly memoryPresence?: Tensor | undefined
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
 * With `memoryPresence` further `earlier` float32 [length, length]: 1 where the row's position lies before the column's.
 * Logits are computed at labelled positions only.
 */
export function generator(base: Base, memory: Tensor | undefined, options: GeneratorOptions): Generator {
  const adapter = options.lora && { size: options.lora, dropout: options.dropout }
  const { decoder, parameters } = declareRole(base, adapter && 'decoder_adapter', adapter)
  const positions = addInput(base.graph, 'promptPositions', 'int64', [BATCH, LENGTH])
  const attentionBias = addInput(base.graph, 'promptBias', 'float32', [BATCH, 1, 1, LENGTH, LENGTH])
  const places = memory && memoryPlaces(base)
  const embedded = generatorEmbeddings(base, memory, places)
  const seen = { positions, attentionBias }
  const at = places && options.memoryPresence ? withoutPadding(seen, places, options.memoryPresence) : seen
  const hidden = decode(decoder, embedded, { batch: BATCH, length: LENGTH, ...at })
  return { ...answerLoss(base, hidden, options.memoryRows), parameters }
}

const [BATCH, LENGTH] = ['batch', 'length']

/** Which positions of the prompts hold memory, and which row of it. */
interface MemoryPlaces {
  /** int64 [batch, length] */
  readonly index: Tensor
  /** bool [batch, length, 1] */
  readonly isMemory: Tensor
}

const memoryPlaces = ({ graph }: Base): MemoryPlaces => ({
  index: addInput(graph, 'memoryIndex', 'int64', [BATCH, LENGTH]),
  isMemory: addInput(graph, 'isMemory', 'bool', [BATCH, LENGTH, 1]),
})

/** Added to the score of a slot that is padding. */
const HIDDEN = -1e9

interface Seen {
  readonly positions: Tensor
  readonly attentionBias: Tensor
}

function withoutPadding({ positions, attentionBias }: Seen, { index, isMemory }: MemoryPlaces, presence: Tensor): Seen {
  const present = reshape(gather(stopGradient(presence), index), [BATCH, LENGTH, 1])
  const one = scalar(present, 1)
  const absent = reshape(where(isMemory, subtract(one, present), scalar(present, 0)), [BATCH, 1, LENGTH])
  const before = matmul(absent, addInput(presence.graph, 'earlier', 'float32', [LENGTH, LENGTH]))
  return {
    positions: subtract(positions, cast(reshape(before, [BATCH, LENGTH]), 'int64')),
    attentionBias: add(attentionBias, reshape(scale(absent, HIDDEN), [BATCH, 1, 1, 1, LENGTH])),
  }
}

/** What enters the generator's first layer, as rows: embeddings, and memory where a prompt has room for it. */
export function generatorEmbeddings(
  base: Base,
  memory: Tensor | undefined,
  places: MemoryPlaces | undefined = memory && memoryPlaces(base),
): Tensor {
  const { graph, config } = base
  const ids = addInput(graph, 'promptIds', 'int64', [BATCH, LENGTH])
  let embeddings = gather(embeddingTable(base), ids)
  if (memory && places) embeddings = where(places.isMemory, gather(memory, places.index), embeddings)
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
export function headLogits(base: Base, rows: Tensor, memoryRows: GeneratorOptions['memoryRows']): Tensor {
  const logits = linear(rows, headTable(base))
  if (!memoryRows || !base.config.tie_word_embeddings) return logits
  const { rows: table, firstId } = memoryRows
  const count = table.shape[0] as number
  const parts = [slice(logits, 1, 0, firstId), linear(rows, table)]
  if (firstId + count < base.vocabulary) parts.push(slice(logits, 1, firstId + count, base.vocabulary))
  return concat(parts, 1)
}

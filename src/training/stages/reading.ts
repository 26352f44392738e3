import { gradients } from '../../autodiff/gradients.ts'
import { type Feeds, type GeneratorRow, generatorBatch } from '../../clara/batch.ts'
import { MEMORY_ROWS } from '../../clara/compressor.ts'
import { joinMemories, type Memory } from '../../clara/encoder.ts'
import { generator } from '../../clara/generator.ts'
import { declareBase } from '../../clara/network.ts'
import { float32, type HostTensor } from '../../graph/dtype.ts'
import { addInput, addOutput, createGraph, type Tensor } from '../../graph/graph.ts'
import { frozenLinear } from '../../model/frozen.ts'
import { encodeGraph } from '../../ops/table.ts'
import type { TrainableModel } from '../model.ts'
import type { Stage1Options, TrainingGraph } from './graph.ts'
import {
  dropoutFactors,
  graphOptions,
  parameterOf,
  roundedBase,
  type Stage1ModelOptions,
  type StageShape,
} from './stage1.ts'

/** What a generator learns from that reads memory as it is. */
export interface ReadingBatch {
  readonly memories: readonly Memory[]
  /** Prompts whose documents count into `memories`. */
  readonly rows: readonly GeneratorRow[]
}

/**
 * The generator alone, over the memory of a frozen compressor. Inputs: those of the generator, and `memory` float32
 * [memories, hidden_size]. Outputs: `loss`, and one gradient a parameter, or without gradients `nll` and `logits`.
 */
export function readingGraph(options: Stage1Options, withGradients: boolean): TrainingGraph {
  const { config, compressor } = options
  const graph = createGraph(withGradients ? 'reading' : 'reading_evaluation')
  const exact = declareBase(graph, config, options.vocabulary, options.positions)
  const base = options.int8 ? { ...exact, linear: frozenLinear(graph) } : exact
  const dropout =
    options.dropout && withGradients
      ? { dropout: { factors: addInput(graph, 'dropout', 'float32', ['dropoutLength']) } }
      : {}
  const memory = addInput(graph, 'memory', 'float32', ['memories', config.hidden_size])
  // the memory tokens' embeddings are part of the head only where it is the embedding
  const inHead = compressor.config.memory === 'tokens' && config.tie_word_embeddings
  const rows = inHead
    ? addInput(graph, MEMORY_ROWS, 'float32', [compressor.memoryTokens, config.hidden_size])
    : undefined
  const memoryRows = rows && { rows, firstId: options.firstMemoryToken }
  const answer = generator(base, memory, { lora: options.lora, memoryRows, ...dropout })
  addOutput(graph, 'loss', answer.loss)
  if (withGradients) {
    const found = gradients(answer.loss, [...answer.parameters.values()])
    for (const [index, name] of [...answer.parameters.keys()].entries()) {
      addOutput(graph, `grad:${name}`, found[index] as Tensor)
    }
  } else {
    addOutput(graph, 'nll', answer.nll)
    addOutput(graph, 'logits', answer.logits)
  }
  return {
    graph,
    model: encodeGraph(graph),
    parameters: [...answer.parameters.keys()],
    frozen: rows ? [MEMORY_ROWS] : [],
  }
}

/** The generator behind the trainer's interface. */
export async function openReading(
  options: Stage1ModelOptions,
): Promise<TrainableModel<ReadingBatch> & { close(): Promise<void> }> {
  const int8 = options.frozenWeights === 'int8'
  const training = readingGraph({ ...graphOptions(options), int8 }, true)
  const session = await options.runtime.open(training.model, int8 ? await roundedBase(options) : options.base.weights)
  const names = training.parameters
  return {
    parameters: new Map(names.map((name) => [name, parameterOf(options.parameters, name).data as Float32Array])),
    labelledTokens: readingLabels,
    samples: ({ rows }) => rows.length,
    async lossAndGradients(batch, { normaliser, seed }) {
      const feeds = readingFeeds(batch, options, 1 / normaliser)
      for (const name of [...names, ...training.frozen]) feeds[name] = parameterOf(options.parameters, name)
      if (options.dropout > 0) feeds['dropout'] = dropoutFactors(feeds, options, seed)
      const results = await session.run(feeds)
      const gradients = new Map(names.map((name) => [name, results[`grad:${name}`]?.data as Float32Array]))
      return { loss: Number(results['loss']?.data[0]), terms: {}, gradients }
    },
    close: () => session.close(),
  }
}

/** The forward pass alone, without dropout and in fp32. */
export async function openReadingEvaluation(options: Stage1ModelOptions): Promise<{
  /** Mean negative log-likelihood of all labels, in nats. */
  loss(batch: ReadingBatch): Promise<number>
  /** `loss`, `nll`, `logits`. */
  outputs(batch: ReadingBatch): Promise<Record<string, HostTensor>>
  close(): Promise<void>
}> {
  const evaluation = readingGraph(graphOptions(options), false)
  const session = await options.runtime.open(evaluation.model, options.base.weights)
  const run = (batch: ReadingBatch, fetch?: readonly string[]) => {
    const feeds = readingFeeds(batch, options, 1 / Math.max(1, readingLabels(batch)))
    for (const name of [...evaluation.parameters, ...evaluation.frozen]) {
      feeds[name] = parameterOf(options.parameters, name)
    }
    return session.run(feeds, fetch ? { fetch } : {})
  }
  return {
    loss: async (batch) => Number((await run(batch, ['loss']))['loss']?.data[0]),
    outputs: (batch) => run(batch),
    close: () => session.close(),
  }
}

/** Positions of a batch that carry a label. */
export const readingLabels = ({ rows }: ReadingBatch): number => rows.reduce((sum, row) => sum + row.labels.length, 0)

/** All inputs but the parameters. */
export function readingFeeds({ memories, rows }: ReadingBatch, options: StageShape, labelWeight: number): Feeds {
  const { padId, firstMemoryToken, memoryTokens, base } = options
  const isMemory = (id: number) => id >= firstMemoryToken && id < firstMemoryToken + memoryTokens
  const memoryCounts = memories.map(({ shape }) => shape[0])
  const width = base.config.hidden_size
  // a row that nobody reads, where there is no memory
  const memory = memories.length > 0 ? joinMemories(memories, width) : float32(new Float32Array(width), [1, width])
  return { ...generatorBatch(rows, { padId, isMemory, memoryCounts, labelWeight }), memory }
}

import type { BaseModel } from '../../clara/base.ts'
import { ClaraError } from '../../errors.ts'
import { bytesPerElement, elementCount } from '../../graph/dtype.ts'
import type { Graph } from '../../graph/graph.ts'
import { roles } from '../../lora/adapters.ts'
import { layerParameters } from '../../model/config.ts'
import { type Dims, peakBytesOf, weightUseBytes } from '../estimate.ts'
import { learnsCompressor, type StageConfig } from './config.ts'
import type { TrainingGraph } from './graph.ts'

/** Memory of a training process in mebibytes, by mode; `saving` where the stage has that mode. */
export interface MemoryEstimate {
  readonly fast: number
  readonly saving?: number
}

/** Trainable numbers by adapter; `memory` are those of the compressor's memory. */
export function parametersByRole({
  graph,
  parameters,
}: Pick<TrainingGraph, 'graph' | 'parameters'>): Record<string, number> {
  const learned = new Set(parameters)
  const counts: Record<string, number> = {}
  for (const { name, shape } of graph.inputs) {
    if (!learned.has(name)) continue
    const role = roles.find((each) => name.includes(`.${each}.`)) ?? 'memory'
    counts[role] = (counts[role] ?? 0) + elementCount(shape.map(Number))
  }
  return counts
}

const MEBIBYTE = 2 ** 20
/** Node, ONNX Runtime, the code, and what reading the base's file left behind. */
const PROGRAM_BYTES = 270 * MEBIBYTE
/** Copies of a parameter: here and in the runtime, its gradient on both sides, and two moments. */
const PARAMETER_COPIES = 6

/**
 * What ONNX Runtime's arena holds for a byte of results. Measured: 1.05 for batches of one size; 1.5 after 550 batches of a recipe,
 * as it grows in powers of two and keeps what other sizes left.
 */
const ARENA = 1.4

/** What is open at the same time: the graph of a step, and that of the evaluations where the run has some. */
export interface EstimatedGraphs {
  readonly training: Pick<TrainingGraph, 'graph' | 'parameters'>
  readonly evaluation: Graph | undefined
}

/**
 * The process's memory, by what was found in it when it was measured (docs/LOG.md): the base's float32 weights once, a packed
 * copy for every place where a graph uses one, the intermediate results of the largest batch, and the parameters with
 * gradients and moments. The saving mode holds the states that enter each layer, and weights and results of one layer, and
 * evaluates with the same graphs.
 */
export function estimateMemory(
  config: Pick<StageConfig, 'stage' | 'background' | 'compressor'>,
  { config: model, vocabulary }: Pick<BaseModel, 'config' | 'vocabulary'>,
  { training, evaluation }: EstimatedGraphs,
  sizes: readonly Dims[],
): MemoryEstimate {
  const layers = model.num_hidden_layers
  const layerSize = [...layerParameters(model).values()].reduce((sum, dims) => sum + elementCount(dims), 0)
  const table = 4 * vocabulary * model.hidden_size
  const tables = model.tie_word_embeddings ? table : 2 * table
  const learned = Object.values(parametersByRole(training)).reduce((sum, count) => sum + count, 0)
  const common = PROGRAM_BYTES + 4 * layers * layerSize + tables + PARAMETER_COPIES * 4 * learned
  const largest = (graph: Graph) => Math.max(...sizes.map(peakBytesOf(graph)))
  const results = largest(training.graph)
  const evaluated = evaluation === undefined ? 0 : weightUseBytes(evaluation) + largest(evaluation)
  const fast = common + weightUseBytes(training.graph) + ARENA * results + evaluated
  if (!learnsCompressor(config)) return { fast: fast / MEBIBYTE }
  const compressorLayers = config.compressor.compressorLayers ?? layers
  const states = Math.max(
    ...sizes.map((dims) => {
      const { documents = 0, documentLength = 0, batch = 0, length = 0 } = dims
      return (
        bytesPerElement.float32 *
        model.hidden_size *
        (compressorLayers * documents * documentLength + layers * batch * length)
      )
    }),
  )
  const saving = common + tables + states + (2 * results) / (layers + compressorLayers) + 4 * 4 * layerSize
  return { fast: fast / MEBIBYTE, saving: saving / MEBIBYTE }
}

/**
 * The mode that a run computes in: as configured, else the fast one where its estimate keeps the budget.
 * @throws ClaraError when no mode keeps it.
 */
export function chooseMemoryMode(
  {
    memoryMode,
    memoryBudgetMiB: budget,
    frozenWeights,
    distillation,
  }: Pick<StageConfig, 'memoryMode' | 'memoryBudgetMiB' | 'frozenWeights' | 'distillation'>,
  { fast, saving }: MemoryEstimate,
): 'fast' | 'saving' {
  if (memoryMode !== undefined) return memoryMode
  if (budget === undefined || fast <= budget) return 'fast'
  const possible = frozenWeights !== 'int8' && distillation === undefined && saving !== undefined
  if (possible && saving <= budget) return 'saving'
  throw new ClaraError(`The run needs more memory than memoryBudgetMiB (${budget}) allows.`, {
    expected: 'an estimate within the budget',
    received: `${Math.round(fast)} MiB${possible ? `, in the saving mode ${Math.round(saving)} MiB` : ''}`,
    hint: 'Lower batchSize (and raise accumulate), docMaxLength or maxLength, or raise the budget.',
  })
}

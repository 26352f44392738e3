import { gradients } from '../../autodiff/gradients.ts'
import { type CompressorOptions, compressor } from '../../clara/compressor.ts'
import { type GeneratorOptions, generator } from '../../clara/generator.ts'
import { type DropoutNoise, declareBase, noiseLength } from '../../clara/network.ts'
import { addInput, addOutput, createGraph, type Graph, type Tensor } from '../../graph/graph.ts'
import type { EncodedModel } from '../../graph/onnx.ts'
import type { LoraSize } from '../../lora/adapters.ts'
import { type DecoderConfig, widestInput } from '../../model/config.ts'
import { frozenLinear } from '../../model/frozen.ts'
import { add, multiply, scale } from '../../ops/elementwise.ts'
import { reshape } from '../../ops/layout.ts'
import { encodeGraph } from '../../ops/table.ts'
import { type DistillationOptions, divergence } from './distillation.ts'

export interface Stage1Options {
  readonly config: DecoderConfig
  readonly vocabulary: number
  /** Longest sequence, of either side. */
  readonly positions: number
  readonly lora: LoraSize
  readonly compressor: Omit<CompressorOptions, 'role' | 'lora' | 'dropout' | 'prefix'>
  /** Id of the first memory token; its rows learn with memory 'tokens'. */
  readonly firstMemoryToken: number
  /** Whether the linear layers of the base are rounded to 8 bits. Default: false. */
  readonly int8?: boolean
  /** Whether dropout factors are an input. */
  readonly dropout: boolean
  /** Learn from a reader of the full text as well. */
  readonly distillation?: DistillationOptions | undefined
}

export interface TrainingGraph {
  readonly graph: Graph
  readonly model: EncodedModel
  /** Names of the parameters, each an input of the graph; their gradients are the outputs `grad:NAME`. */
  readonly parameters: readonly string[]
  /** Names of inputs that an earlier stage learned and this one leaves as they are. */
  readonly frozen: readonly string[]
}

/** Dropout factors that a step over `rows` positions needs. */
export const dropoutLength = (config: DecoderConfig, rows: number): number =>
  noiseLength(rows * widestInput(config), config.num_hidden_layers)

/**
 * Stages 1 and 1_2 (paper section 3.3): compressor and generator learn together from L = CE + λ · MSE.
 * Beside those of compressor and generator the graph has the inputs `mseWeight` float32 [1] (λ, memory 'tokens' only) and,
 * with dropout, `dropout` float32 [any]; with distillation those of `divergence`. Outputs: `loss`, `crossEntropy`, `mse`,
 * `divergence`, and one gradient a parameter.
 */
export function stage1Graph(options: Stage1Options, withGradients = true): TrainingGraph {
  const graph = createGraph(withGradients ? 'stage1' : 'stage1_evaluation')
  const exact = declareBase(graph, options.config, options.vocabulary, options.positions)
  const base = options.int8 ? { ...exact, linear: frozenLinear(graph) } : exact
  const dropout: { dropout?: DropoutNoise } =
    options.dropout && withGradients
      ? { dropout: { factors: addInput(graph, 'dropout', 'float32', ['dropoutLength']) } }
      : {}
  const encoder = compressor(base, { ...options.compressor, role: 'encoder_adapter', lora: options.lora, ...dropout })
  const memoryRows = encoder.parameters.get('memory_tokens.weight')
  const generatorOptions: GeneratorOptions = {
    lora: options.lora,
    memoryRows: memoryRows && { rows: memoryRows, firstId: options.firstMemoryToken },
    ...dropout,
  }
  const answer = generator(base, encoder.memory, generatorOptions)
  const parameters = new Map([...encoder.parameters, ...answer.parameters])
  const { distillation } = options
  const far = distillation && withGradients ? divergence(base, answer, generatorOptions, distillation) : undefined
  const written = far && distillation ? add(answer.loss, scale(far, distillation.weight)) : answer.loss
  const loss = withMse(written, encoder.mseLoss, graph)
  addOutput(graph, 'loss', loss)
  addOutput(graph, 'crossEntropy', answer.loss)
  if (encoder.mseLoss) addOutput(graph, 'mse', encoder.mseLoss)
  if (far) addOutput(graph, 'divergence', far)
  if (withGradients) {
    const names = [...parameters.keys()]
    const grads = gradients(loss, [...parameters.values()])
    names.forEach((name, index) => {
      addOutput(graph, `grad:${name}`, grads[index] as Tensor)
    })
  } else {
    addOutput(graph, 'nll', answer.nll)
    addOutput(graph, 'logits', answer.logits)
    addOutput(graph, 'memory', encoder.memory)
  }
  return { graph, model: encodeGraph(graph), parameters: [...parameters.keys()], frozen: [] }
}

function withMse(loss: Tensor, mse: Tensor | undefined, graph: Graph): Tensor {
  if (!mse) return loss
  return add(loss, multiply(reshape(addInput(graph, 'mseWeight', 'float32', [1]), []), mse))
}

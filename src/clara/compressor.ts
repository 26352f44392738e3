import type { HostTensor } from '../graph/dtype.ts'
import { addInput, type Tensor } from '../graph/graph.ts'
import type { LoraSize, Role } from '../lora/adapters.ts'
import { type Decoder, decode } from '../model/decoder.ts'
import { add, divide, multiply, scalar, scale, sqrt, where } from '../ops/elementwise.ts'
import { gather } from '../ops/indexing.ts'
import { reshape } from '../ops/layout.ts'
import { matmul } from '../ops/matmul.ts'
import { meanSquaredError, softmax } from '../ops/normalise.ts'
import { reduceSum } from '../ops/reduce.ts'
import type { CompressorConfig } from './config.ts'
import { type Base, type DropoutNoise, declareRole, embeddingTable } from './network.ts'

/** Name of the trainable embeddings of the memory tokens. */
export const MEMORY_ROWS = 'memory_tokens.weight'

/** Names of the learned numbers of salient memory. */
export interface SalientNames {
  readonly alpha: string
  readonly beta: string
  readonly weight: string
}
export const SALIENT: SalientNames = { alpha: 'salient.alpha', beta: 'salient.beta', weight: 'salient.weight' }

/** A query reasoner has numbers of its own: memory of documents stays what it is while questions learn to look for it. */
export const REASONER_SALIENT: SalientNames = {
  alpha: 'salient.query_reasoner_adapter.alpha',
  beta: 'salient.query_reasoner_adapter.beta',
  weight: 'salient.query_reasoner_adapter.weight',
}

/**
 * Name of the matrix [hidden_size, hidden_size] that a query reasoner's memory may pass, out before in. Directions that are common to all
 * documents tell nothing apart; a compressor, which makes memory for reading, has no reason to avoid them.
 */
export const QUERY_PROJECTION = 'memory.query_reasoner_adapter.projection'

/** What the query reasoner's own of a compressor's parameter is called; undefined where there is none of its own. */
export function reasonersParameter(name: string): string | undefined {
  if (name.includes('.encoder_adapter.')) return name.replace('.encoder_adapter.', '.query_reasoner_adapter.')
  const key = (['alpha', 'beta', 'weight'] as const).find((one) => SALIENT[one] === name)
  return key && REASONER_SALIENT[key]
}

const salientOf = (role: Role): SalientNames => (role === 'query_reasoner_adapter' ? REASONER_SALIENT : SALIENT)

/**
 * What a role makes memory with beside its layers, under the names that the graph of an `encoder_adapter` asks for. A query
 * reasoner that has none of its own shares the compressor's.
 */
export function memoryParameters(
  parameters: ReadonlyMap<string, HostTensor>,
  role: Role,
): Readonly<Record<string, HostTensor>> {
  const own = salientOf(role)
  const of = (name: string, first = name) => {
    const value = parameters.get(first) ?? parameters.get(name)
    return value ? { [name]: value } : {}
  }
  return {
    ...of(MEMORY_ROWS),
    ...of(SALIENT.alpha, own.alpha),
    ...of(SALIENT.beta, own.beta),
    ...of(SALIENT.weight, own.weight),
    ...(role === 'query_reasoner_adapter' ? of(QUERY_PROJECTION) : {}),
  }
}

export interface CompressorOptions {
  readonly role: Role
  readonly lora: LoraSize | undefined
  readonly config: CompressorConfig
  /** Memory tokens in the vocabulary (memory 'tokens'). */
  readonly memoryTokens: number
  /** Mean L2 norm of the base model's input embeddings. */
  readonly embeddingNorm: number
  /** Whether memory passes {@link QUERY_PROJECTION}. Default: false. */
  readonly projected?: boolean
  /** Before every input's name; two compressors in one graph need different ones. */
  readonly prefix?: string
  readonly dropout?: DropoutNoise
  /** The decoder to run instead of declaring the role's own (inference with prepared weights). */
  readonly decoder?: Decoder
}

export interface Compressor {
  /** [memories, hidden_size]: the memory tokens of all documents, one after the other. */
  readonly memory: Tensor
  /** The published MSE term (memory 'tokens' only): mean hidden state over the memory against that over the document. */
  readonly mseLoss: Tensor | undefined
  readonly parameters: ReadonlyMap<string, Tensor>
}

/**
 * The compressor (paper section 3.1) as graph code: token ids [documents, length] in, memory out. Inputs it declares, each
 * behind `prefix`: `ids`, `positions` int64 [documents, length]; `bias` float32 [documents, 1, 1, length, length]; for
 * memory 'tokens' further `slot` int64 [documents, length] (memory-token row, 0 elsewhere), `isSlot` bool
 * [documents, length, 1], `memoryPositions` int64 [memories] (flat positions), `memoryMean` and `textMean` float32
 * [documents, 1, length] (weights of the two means of the MSE term); for 'mean' and 'salient' `window` int64
 * [memories, window] (flat positions), `windowBias` float32 [memories, window] (0, or a large negative number behind a
 * short window) and, for 'salient', `idf` float32 [memories, window].
 */
export function compressor(base: Base, options: CompressorOptions): Compressor {
  const { graph } = base
  const { role, prefix = '' } = options
  const { batch, length } = axes(options)
  const layers = compressorLayers(base, options)
  const adapter = options.lora && { size: options.lora, layers, dropout: options.dropout }
  const { decoder, parameters } = options.decoder
    ? { decoder: options.decoder, parameters: new Map<string, Tensor>() }
    : declareRole(base, adapter && role, adapter)
  const embeddings = compressorEmbeddings(base, options)
  const positions = addInput(graph, `${prefix}positions`, 'int64', [batch, length])
  const attentionBias = addInput(graph, `${prefix}bias`, 'float32', [batch, 1, 1, length, length])
  const at = { batch, length, positions, attentionBias }
  const hidden = decode(decoder, embeddings.embedded, at, layers)
  const pooled = compressorMemory(base, options, embeddings.embedded, hidden)
  return { ...pooled, parameters: new Map([...parameters, ...embeddings.parameters, ...pooled.parameters]) }
}

/** How many layers of the base the compressor runs. */
export const compressorLayers = (base: Pick<Base, 'config'>, { config }: Pick<CompressorOptions, 'config'>): number =>
  config.compressorLayers ?? base.config.num_hidden_layers

const axes = ({ prefix = '' }: CompressorOptions) => ({
  batch: `${prefix}documents`,
  length: `${prefix}documentLength`,
  window: `${prefix}windowLength`,
  memories: `${prefix}memories`,
})

/** What enters the compressor's first layer, as rows, and the memory tokens' embeddings where it learns them. */
export function compressorEmbeddings(
  base: Base,
  options: CompressorOptions,
): { readonly embedded: Tensor; readonly parameters: ReadonlyMap<string, Tensor> } {
  const { graph, config: model } = base
  const { prefix = '' } = options
  const { batch, length } = axes(options)
  const parameters = new Map<string, Tensor>()
  const ids = addInput(graph, `${prefix}ids`, 'int64', [batch, length])
  let embeddings = gather(embeddingTable(base), ids)
  if (options.config.memory === 'tokens') {
    const rows = addInput(graph, MEMORY_ROWS, 'float32', [options.memoryTokens, model.hidden_size])
    parameters.set(MEMORY_ROWS, rows)
    const slot = addInput(graph, `${prefix}slot`, 'int64', [batch, length])
    const isSlot = addInput(graph, `${prefix}isSlot`, 'bool', [batch, length, 1])
    embeddings = where(isSlot, gather(rows, slot), embeddings)
  }
  return { embedded: reshape(embeddings, [-1, model.hidden_size]), parameters }
}

/**
 * Memory from the states after the last layer and the final normalisation.
 * @param embedded The rows that entered the first layer: salient memory is made of them too.
 * @param hidden [documents * length, hidden_size]
 */
export function compressorMemory(base: Base, options: CompressorOptions, embedded: Tensor, hidden: Tensor): Compressor {
  const { graph, config: model } = base
  const { config, prefix = '' } = options
  const { batch, length, window, memories } = axes(options)
  const parameters = new Map<string, Tensor>()
  const input = (name: string, dtype: 'int64' | 'float32', shape: readonly (number | string)[]) =>
    addInput(graph, `${prefix}${name}`, dtype, shape)

  if (config.memory === 'tokens') {
    const memory = gather(hidden, input('memoryPositions', 'int64', [memories]))
    const sequences = reshape(hidden, [batch, length, model.hidden_size])
    const mean = (name: string) => matmul(input(name, 'float32', [batch, 1, length]), sequences)
    return finish(memory, meanSquaredError(mean('memoryMean'), mean('textMean')))
  }

  const places = input('window', 'int64', [memories, window])
  let scores = input('windowBias', 'float32', [memories, window])
  let values = hidden
  if (config.memory === 'salient') {
    const names = salientOf(options.role)
    const alpha = addInput(graph, names.alpha, 'float32', [1])
    const beta = addInput(graph, names.beta, 'float32', [1])
    const weight = addInput(graph, names.weight, 'float32', [model.hidden_size, 1])
    parameters.set(names.alpha, alpha).set(names.beta, beta).set(names.weight, weight)
    const learned = reshape(gather(matmul(hidden, weight), places), [memories, window])
    scores = add(scores, add(multiply(beta, input('idf', 'float32', [memories, window])), learned))
    values = add(embedded, multiply(alpha, toNorm(hidden, options.embeddingNorm)))
  }
  const weights = reshape(softmax(scores), [memories, 1, window])
  const means = matmul(weights, gather(values, places))
  return finish(reshape(means, [memories, model.hidden_size]), undefined)

  function finish(pooled: Tensor, mseLoss: Tensor | undefined): Compressor {
    const memory = options.projected ? projected(pooled) : pooled
    return { memory: config.memoryNorm ? toNorm(memory, options.embeddingNorm) : memory, mseLoss, parameters }
  }

  function projected(memory: Tensor): Tensor {
    const projection = addInput(graph, QUERY_PROJECTION, 'float32', [model.hidden_size, model.hidden_size])
    parameters.set(QUERY_PROJECTION, projection)
    return matmul(memory, projection, { transposeB: true })
  }
}

/** Rows scaled to an L2 norm. */
function toNorm(rows: Tensor, norm: number): Tensor {
  const squares = reduceSum(multiply(rows, rows), [-1], true)
  return scale(divide(rows, sqrt(add(squares, scalar(rows, 1e-12)))), norm)
}

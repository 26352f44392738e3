import type { HostTensor } from '../graph/dtype.ts'
import type { Graph, Tensor } from '../graph/graph.ts'
import { addWeight } from '../graph/graph.ts'
import { factorName, type LoraSize, type Role } from '../lora/adapters.ts'
import { inputModules, linearModules, linearWeightName } from '../model/config.ts'
import type { Decoder } from '../model/decoder.ts'
import { int8Name, joinRows, type LowRankUpdate, quantiseWeights, scalesName } from '../model/quantise.ts'
import { multipliesBytesExactly, rotatedDecoder, rotatedWeights } from '../model/rotated.ts'
import { split } from '../ops/layout.ts'
import { linear } from '../ops/matmul.ts'
import { matmulBlocks, QUANTISATION_BLOCK } from '../ops/quantised.ts'
import type { Runtime } from '../runtime/runtime.ts'
import type { BaseModel } from './base.ts'
import { type Base, declareBase, declareRole, EMBEDDING, HEAD, headTable } from './network.ts'

/** How the linear layers of a role in a session of its own are held: as they are, or as 8-bit integers. */
export type RoleKind = 'fp32' | 'int8'

/** One role of a model made ready for inference: how to declare it in a graph, and the weights that stand behind it. */
export interface InferenceRole {
  readonly weights: ReadonlyMap<string, HostTensor>
  declare(
    graph: Graph,
    positions: number,
  ): { readonly base: Base; readonly decoder: Decoder; head(rows: Tensor): Tensor }
}

export interface InferenceOptions {
  readonly runtime: Runtime
  readonly base: BaseModel
  /** Trained parameters by name; those of the role are used. */
  readonly adapters: ReadonlyMap<string, HostTensor>
  /** Undefined: the base alone. */
  readonly role: Role | undefined
  readonly size: LoraSize
  readonly layers: number
  readonly kind: RoleKind
  /** Whether the output head will be used: such a role writes token by token, one without reads whole documents. */
  readonly head: boolean
}

/**
 * Prepares a role: with `fp32` weights the adapter stays beside the base, which all roles share; with `int8` it is merged
 * into the base and the sum rounded. Rounded in blocks, weights are read fastest, which counts for a token at a time; rounded
 * by channel in a rotated basis they multiply fastest, which counts for documents.
 */
export async function inferenceRole(options: InferenceOptions): Promise<InferenceRole> {
  const { kind, head, runtime } = options
  if (kind === 'fp32') return fullPrecisionRole(options)
  const byChannel = !head && runtime.device === 'cpu' && (await multipliesBytesExactly(runtime))
  return byChannel ? rotatedRole(options) : blockRole(options)
}

function fullPrecisionRole({ base, adapters, role, size, layers }: InferenceOptions): InferenceRole {
  return {
    weights: new Map([...base.weights, ...adapters]),
    declare(graph, positions) {
      const declared = declareBase(graph, base.config, base.vocabulary, positions)
      const { decoder } = declareRole(declared, role, role && { size, layers, frozen: true })
      return { base: declared, decoder, head: (rows) => linear(rows, headTable(declared)) }
    },
  }
}

/** The low-rank updates of a role, by the weight they belong to. */
function lowRankUpdates({ base, adapters, role, size, layers }: InferenceOptions): Map<string, LowRankUpdate> {
  const updates = new Map<string, LowRankUpdate>()
  for (let layer = 0; role && layer < layers; layer++) {
    for (const module of linearModules(base.config).keys()) {
      const a = adapters.get(factorName(layer, module, 'A', role))
      const b = adapters.get(factorName(layer, module, 'B', role))
      if (a && b) updates.set(linearWeightName(layer, module), { a, b, factor: size.alpha / size.rank })
    }
  }
  return updates
}

async function rotatedRole(options: InferenceOptions): Promise<InferenceRole> {
  const { runtime, base, layers } = options
  const { config, weights } = base
  const turned = await rotatedWeights(runtime, { config, layers, weights, updates: lowRankUpdates(options) })
  return {
    weights: new Map([...weights, ...turned]),
    declare(graph, positions) {
      const declared = declareBase(graph, config, base.vocabulary, positions)
      const decoder = rotatedDecoder(graph, declareRole(declared, undefined).decoder)
      return { base: declared, decoder, head: (rows) => linear(rows, headTable(declared)) }
    },
  }
}

async function blockRole(options: InferenceOptions): Promise<InferenceRole> {
  const { base, layers } = options
  const modules = linearModules(base.config)
  const linears = new Map<string, HostTensor>()
  const take = (name: string) => {
    const weight = base.weights.get(name)
    if (!weight) throw new RangeError(`The base has no weight '${name}'.`)
    linears.set(name, weight)
  }
  for (let layer = 0; layer < layers; layer++) {
    for (const module of modules.keys()) take(linearWeightName(layer, module))
  }
  const headName = base.config.tie_word_embeddings ? EMBEDDING : HEAD
  if (options.head) take(headName)
  const quantised = await quantiseWeights(options.runtime, linears, lowRankUpdates(options))
  for (let layer = 0; layer < layers; layer++) {
    for (const joint of Object.values(inputModules(base.config))) joinWeights(quantised, layer, joint)
  }
  return {
    weights: new Map([...base.weights, ...quantised]),
    declare(graph, positions) {
      const declared = declareBase(graph, base.config, base.vocabulary, positions)
      const product = (rows: Tensor, name: string, out: number, input: number) => {
        const blocks = input / QUANTISATION_BLOCK
        const weight = addWeight(graph, int8Name(name), 'uint8', [out, blocks, QUANTISATION_BLOCK])
        return matmulBlocks(rows, weight, addWeight(graph, scalesName(name), 'float32', [out, blocks]))
      }
      const dimsOf = (module: string) => {
        const dims = modules.get(module)
        if (!dims) throw new RangeError(`No linear layer is named '${module}'.`)
        return dims
      }
      const decoder: Decoder = {
        ...declareRole(declared, undefined).decoder,
        project: (rows, layer, module) => product(rows, linearWeightName(layer, module), ...dimsOf(module)),
        projectTogether(rows, layer, joint) {
          const outs = joint.map((module) => dimsOf(module)[0])
          const [, input] = dimsOf(joint[0] ?? '')
          const all = outs.reduce((sum, out) => sum + out, 0)
          return split(product(rows, linearWeightName(layer, joint.join('+')), all, input), -1, outs)
        },
      }
      const { vocabulary, config } = base
      return { base: declared, decoder, head: (rows) => product(rows, headName, vocabulary, config.hidden_size) }
    },
  }
}

/** Puts the quantised weights of linear layers that read the same rows below each other: one product for one token. */
function joinWeights(quantised: Map<string, HostTensor>, layer: number, joint: readonly string[]): void {
  for (const partName of [int8Name, scalesName]) {
    const names = joint.map((module) => partName(linearWeightName(layer, module)))
    const parts = names.map((name) => quantised.get(name) as HostTensor)
    for (const name of names) quantised.delete(name)
    quantised.set(partName(linearWeightName(layer, joint.join('+'))), joinRows(parts))
  }
}

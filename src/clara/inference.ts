import type { HostTensor } from '../graph/dtype.ts'
import type { Graph, Tensor } from '../graph/graph.ts'
import { addWeight } from '../graph/graph.ts'
import { factorName, type LoraSize, type Role } from '../lora/adapters.ts'
import { linearModules } from '../model/config.ts'
import type { Decoder } from '../model/decoder.ts'
import { int8Name, type LowRankUpdate, quantiseWeights, scalesName } from '../model/quantise.ts'
import { linear } from '../ops/matmul.ts'
import { matmulInt8, QUANTISATION_BLOCK } from '../ops/quantised.ts'
import type { Runtime } from '../runtime/runtime.ts'
import type { BaseModel } from './base.ts'
import { type Base, declareBase, declareRole, EMBEDDING, HEAD, headTable } from './network.ts'

/** How the weights of the linear layers are held: as they are, or as 8-bit integers in blocks of 32. */
export const weightKinds = ['fp32', 'int8'] as const
export type WeightKind = (typeof weightKinds)[number]

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
  readonly kind: WeightKind
  /** Whether the output head will be used. */
  readonly head: boolean
}

/**
 * Prepares a role: with `fp32` weights the adapter stays beside the base, which all roles share; with `int8` it is merged
 * into the base and the sum rounded.
 */
export async function inferenceRole(options: InferenceOptions): Promise<InferenceRole> {
  return options.kind === 'fp32' ? fullPrecisionRole(options) : await quantisedRole(options)
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

async function quantisedRole(options: InferenceOptions): Promise<InferenceRole> {
  const { base, adapters, role, size, layers } = options
  const modules = linearModules(base.config)
  const linears = new Map<string, HostTensor>()
  const updates = new Map<string, LowRankUpdate>()
  const take = (name: string) => {
    const weight = base.weights.get(name)
    if (!weight) throw new RangeError(`The base has no weight '${name}'.`)
    linears.set(name, weight)
  }
  for (let layer = 0; layer < layers; layer++) {
    for (const module of modules.keys()) {
      const name = `model.layers.${layer}.${module}.weight`
      take(name)
      const a = role && adapters.get(factorName(layer, module, 'A', role))
      const b = role && adapters.get(factorName(layer, module, 'B', role))
      if (a && b) updates.set(name, { a, b, factor: size.alpha / size.rank })
    }
  }
  const headName = base.config.tie_word_embeddings ? EMBEDDING : HEAD
  if (options.head) take(headName)
  const quantised = await quantiseWeights(options.runtime, linears, updates)
  return {
    weights: new Map([...base.weights, ...quantised]),
    declare(graph, positions) {
      const declared = declareBase(graph, base.config, base.vocabulary, positions)
      const product = (rows: Tensor, name: string, [out, input]: readonly [number, number]) => {
        const blocks = input / QUANTISATION_BLOCK
        const weight = addWeight(graph, int8Name(name), 'uint8', [out, blocks, QUANTISATION_BLOCK])
        return matmulInt8(rows, weight, addWeight(graph, scalesName(name), 'float32', [out, blocks]))
      }
      const decoder: Decoder = {
        ...declareRole(declared, undefined).decoder,
        project(rows, layer, module) {
          const dims = modules.get(module)
          if (!dims) throw new RangeError(`No linear layer is named '${module}'.`)
          return product(rows, `model.layers.${layer}.${module}.weight`, dims)
        },
      }
      const headDims = [base.vocabulary, base.config.hidden_size] as const
      return { base: declared, decoder, head: (rows) => product(rows, headName, headDims) }
    },
  }
}

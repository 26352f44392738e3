import { float32, type HostTensor } from '../graph/dtype.ts'
import { addConstant, addInput, addOutput, addWeight, createGraph, type Graph, type Tensor } from '../graph/graph.ts'
import { multiply } from '../ops/elementwise.ts'
import { reshape } from '../ops/layout.ts'
import { gemm, linear, matmul } from '../ops/matmul.ts'
import { linearInt8, matmulRowsInt8, type QuantisedRows, quantiseRows } from '../ops/quantised.ts'
import { encodeGraph } from '../ops/table.ts'
import type { Runtime } from '../runtime/runtime.ts'
import { type DecoderConfig, linearModules, linearWeightName } from './config.ts'
import type { Decoder } from './decoder.ts'
import type { LowRankUpdate } from './quantise.ts'
import { blockLength, rotation, turnedInBlocks } from './rotation.ts'
import { addRounded } from './rounded.ts'

// 8-bit weights for reading many rows at a time: one scale a row and one a column, so that the products are plain integer
// products. That is accurate enough only where no channel stands out, hence the rotated basis (see rotation.ts). It costs
// nothing in the layers: their normalisation weights and the rotation are multiplied into the linear layers beforehand. Only
// what enters the last linear layer, behind a product of two others, has to be turned on the way, in short blocks.

const ROTATION = 'rotation'
const BLOCK_ROTATION = 'rotation.blocks'
const valuesName = (weight: string) => `${weight}.rotated`
const scalesName = (weight: string) => `${weight}.rotated.scales`

/** The linear layers whose results are added to the hidden states; all others read these through a normalisation. */
const writers: readonly string[] = ['self_attn.o_proj', 'mlp.down_proj']
const normName = (layer: number, module: string) =>
  `model.layers.${layer}.${module.startsWith('self_attn.') ? 'input' : 'post_attention'}_layernorm.weight`

/** Layers that are rounded in one go: their weights exist several times meanwhile. */
const LAYERS_AT_ONCE = 5

export interface RotatedWeightsOptions {
  readonly config: DecoderConfig
  readonly layers: number
  /** Linear layers and normalisations by checkpoint name, float32. */
  readonly weights: ReadonlyMap<string, HostTensor>
  /** Low-rank updates, added before anything else. */
  readonly updates: ReadonlyMap<string, LowRankUpdate>
}

/**
 * Turns the linear layers into the rotated basis and rounds them to int8, one scale an output: q = round(w / s) with
 * s = max |w| / 127. The weights of {@link rotatedDecoder}.
 */
export async function rotatedWeights(
  runtime: Runtime,
  options: RotatedWeightsOptions,
): Promise<Map<string, HostTensor>> {
  const turns = {
    [ROTATION]: rotation(options.config.hidden_size),
    [BLOCK_ROTATION]: rotation(blockLength(options.config.intermediate_size)),
  }
  const parts = new Map<string, HostTensor>(Object.entries(turns))
  for (let start = 0; start < options.layers; start += LAYERS_AT_ONCE) {
    const end = Math.min(start + LAYERS_AT_ONCE, options.layers)
    for (const [name, part] of await turnLayers(runtime, options, turns, start, end)) parts.set(name, part)
  }
  return parts
}

async function turnLayers(
  runtime: Runtime,
  { config, weights, updates }: RotatedWeightsOptions,
  turns: Readonly<Record<string, HostTensor>>,
  start: number,
  end: number,
): Promise<[string, HostTensor][]> {
  const graph = createGraph('rotate')
  const feeds: Record<string, HostTensor> = {}
  // fed, not constant: ONNX Runtime would compute all of it while it loads
  const fed = (name: string, value: HostTensor) => {
    feeds[name] = value
    return addInput(graph, name, 'float32', value.dims)
  }
  const [turn, blockTurn] = Object.entries(turns).map(([name, value]) => fed(name, value)) as [Tensor, Tensor]
  const norms = new Map<string, Tensor>()
  for (let layer = start; layer < end; layer++) {
    for (const [module, [out, input]] of linearModules(config)) {
      const name = linearWeightName(layer, module)
      const update = updates.get(name)
      let weight = addWeight(graph, name, 'float32', [out, input])
      if (update)
        weight = gemm(fed(`${name}.b`, update.b), fed(`${name}.a`, update.a), weight, { alpha: update.factor })
      if (module === 'mlp.down_proj') weight = turnedInBlocks(weight, blockTurn)
      if (writers.includes(module)) weight = matmul(turn, weight)
      else {
        const normed = normName(layer, module)
        const norm = norms.get(normed) ?? addWeight(graph, normed, 'float32', [input])
        norms.set(normed, norm)
        weight = matmul(weight, multiply(turn, norm), { transposeB: true })
      }
      addRounded(weight, valuesName(name), scalesName(name))
    }
  }
  await using session = await runtime.open(encodeGraph(graph), weights)
  return Object.entries(await session.run(feeds))
}

/**
 * A decoder on weights of {@link rotatedWeights}.
 * @param plain The decoder that it stands for: configuration, rotary tables, the last normalisation.
 */
export function rotatedDecoder(graph: Graph, plain: Decoder): Decoder {
  const { config } = plain
  const hidden = config.hidden_size
  const modules = linearModules(config)
  const block = blockLength(config.intermediate_size)
  const turn = addWeight(graph, ROTATION, 'float32', [hidden, hidden])
  const blockTurn = addWeight(graph, BLOCK_ROTATION, 'float32', [block, block])
  const ones = addConstant(graph, float32(new Float32Array(hidden).fill(1), [hidden]))
  // rows that enter several layers are rounded once
  const known = new Map<Tensor, QuantisedRows>()
  const rounded = (rows: Tensor) => {
    const result = known.get(rows) ?? quantiseRows(rows)
    known.set(rows, result)
    return result
  }
  return {
    ...plain,
    basis: { enter: (rows) => linear(rows, turn), leave: (rows) => matmul(rows, turn) },
    norm: (name) => (name.endsWith('layernorm.weight') ? ones : plain.norm(name)),
    bias(layer, module) {
      const bias = plain.bias(layer, module)
      if (!bias || !writers.includes(module)) return bias
      return reshape(linear(reshape(bias, [1, hidden]), turn), [hidden])
    },
    project(rows, layer, module) {
      const dims = modules.get(module)
      if (!dims) throw new RangeError(`No linear layer is named '${module}'.`)
      const [out, input] = dims
      const name = linearWeightName(layer, module)
      const weight = addWeight(graph, valuesName(name), 'int8', [input, out])
      const columnScales = addWeight(graph, scalesName(name), 'float32', [out])
      return linearInt8(
        rounded(module === 'mlp.down_proj' ? turnedInBlocks(rows, blockTurn) : rows),
        weight,
        columnScales,
      )
    },
  }
}

/**
 * Whether the processor adds up products of bytes exactly: without instructions for it (AVX512-VNNI, AVX-VNNI, ARM's dot
 * product) some add pairs of products in 16 bits, which are too few.
 */
export async function multipliesBytesExactly(runtime: Runtime): Promise<boolean> {
  const [inner, columns] = [64, 16]
  const graph = createGraph('bytes')
  const values = addInput(graph, 'values', 'uint8', [1, inner])
  const weight = addWeight(graph, 'weight', 'int8', [inner, columns])
  addOutput(graph, 'sums', matmulRowsInt8({ values }, weight, addWeight(graph, 'scales', 'float32', [columns])))
  const weights = new Map<string, HostTensor>([
    ['weight', { dtype: 'int8', dims: [inner, columns], data: new Int8Array(inner * columns).fill(127) }],
    ['scales', float32(new Float32Array(columns).fill(1), [columns])],
  ])
  await using session = await runtime.open(encodeGraph(graph), weights)
  const rows: HostTensor = { dtype: 'uint8', dims: [1, inner], data: new Uint8Array(inner).fill(255) }
  const results = await session.run({ values: rows })
  return Array.from(results['sums']?.data ?? [], Number).every((sum) => sum === inner * 127 * 127)
}

import type { HostTensor } from '../graph/dtype.ts'
import type { Tensor } from '../graph/graph.ts'
import { type DecoderConfig, linearModules } from '../model/config.ts'
import { linear } from '../ops/matmul.ts'

/** The three adapters on one base, by the names the published checkpoints give them. */
export const roles = ['encoder_adapter', 'decoder_adapter', 'query_reasoner_adapter'] as const
export type Role = (typeof roles)[number]

/** Size of a low-rank update W + alpha / rank · B A (Hu et al. 2021). */
export interface LoraSize {
  readonly rank: number
  /** Default of the published code: 2 · rank. */
  readonly alpha: number
}

/** Name of one factor in the PEFT layout: `model.layers.0.mlp.up_proj.lora_A.encoder_adapter.weight`. */
export const factorName = (layer: number, module: string, factor: 'A' | 'B', role: Role): string =>
  `model.layers.${layer}.${module}.lora_${factor}.${role}.weight`

/** Names and shapes of an adapter's parameters: A is [rank, in], B is [out, rank]. */
export function adapterShapes(
  config: DecoderConfig,
  { rank }: LoraSize,
  role: Role,
  layers: number = config.num_hidden_layers,
): Map<string, readonly [number, number]> {
  const shapes = new Map<string, readonly [number, number]>()
  for (let layer = 0; layer < layers; layer++) {
    for (const [module, [out, input]] of linearModules(config)) {
      shapes.set(factorName(layer, module, 'A', role), [rank, input])
      shapes.set(factorName(layer, module, 'B', role), [out, rank])
    }
  }
  return shapes
}

/**
 * Fresh parameters: A uniform in ±1/sqrt(in) (PEFT's Kaiming-uniform with a = sqrt(5)), B zero, so that a new adapter changes nothing.
 * @param uniform A generator of numbers in [0, 1).
 */
export function initialAdapter(
  config: DecoderConfig,
  size: LoraSize,
  role: Role,
  uniform: () => number,
  layers?: number,
): Map<string, HostTensor> {
  const parameters = new Map<string, HostTensor>()
  for (const [name, dims] of adapterShapes(config, size, role, layers)) {
    const data = new Float32Array(dims[0] * dims[1])
    const bound = 1 / Math.sqrt(dims[1])
    if (name.includes('.lora_A.'))
      for (let index = 0; index < data.length; index++) data[index] = (2 * uniform() - 1) * bound
    parameters.set(name, { dtype: 'float32', dims, data })
  }
  return parameters
}

/**
 * Adds a low-rank update to what a linear layer gives: x Wᵀ + scale · (x Aᵀ) Bᵀ. The addition is folded into the last product.
 * @param product The layer's own product, x Wᵀ, however it was computed.
 * @param rows x, after dropout where training wants it.
 */
export function addLowRank(
  product: Tensor,
  rows: Tensor,
  factors: { readonly a: Tensor; readonly b: Tensor },
  scale: number,
): Tensor {
  return linear(linear(rows, factors.a), factors.b, product, scale)
}

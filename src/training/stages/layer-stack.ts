import { compressorLayers } from '../../clara/compressor.ts'
import { layerNoise } from '../../clara/network.ts'
import { float32, type HostTensor, int64 } from '../../graph/dtype.ts'
import { adapterShapes, factorName, type Role } from '../../lora/adapters.ts'
import { layerParameters, linearModules, slidingWindow, widestInput } from '../../model/config.ts'
import { type Resident, type Session, toShared } from '../../runtime/runtime.ts'
import { LAYER_ROLE, slidesWithin } from './layerwise-graphs.ts'
import { dropoutFactors, parameterOf, type Stage1ModelOptions } from './stage1.ts'

/** What graphs are fed with: tensors by name, or residents of the runtime. */
export type Values = Record<string, HostTensor | Resident>

/** One of the two decoders of a step: its adapter, its layers, and the names of its inputs among a step's values. */
interface Side {
  readonly role: Role
  readonly layers: number
  readonly positions: string
  readonly bias: string
}

/** Dropout factors of every layer of both decoders. */
export interface LayerNoise {
  readonly masks: ReadonlyMap<Side, readonly Resident[]>
  release(): Promise<void>
}

/** What both passes through a decoder are given. */
interface Pass {
  readonly values: Values
  readonly noise: LayerNoise | undefined
  readonly signal?: AbortSignal | undefined
}

/** The layers of compressor and generator, run one at a time by the same sessions. */
export interface LayerStack {
  readonly compressor: Side
  readonly generator: Side
  /** Names of a decoder's adapter parameters. */
  parameters(side: Side): string[]
  /** Draws a step's dropout noise, the same as the whole graph's. */
  noise(values: Record<string, HostTensor>, seed: number): Promise<LayerNoise>
  /** What enters each layer, from the first, and last what left the last one. */
  forward(side: Side, embedded: HostTensor, pass: Pass): Promise<HostTensor[]>
  /**
   * From the gradient by what left the last layer to the gradient by what entered the first.
   * @param entered What `forward` returned but for the last; taken from the list one by one, so that memory frees up.
   * @param found Receives the gradient of each adapter parameter under `grad:NAME`.
   */
  backward(
    side: Side,
    entered: HostTensor[],
    gradient: HostTensor,
    found: Record<string, HostTensor>,
    pass: Pass,
  ): Promise<HostTensor>
}

export interface LayerStackOptions {
  readonly model: Stage1ModelOptions
  /** Every weight of the base by name. */
  readonly weights: Readonly<Record<string, Resident>>
  readonly layer: Session
  readonly layerWithDropout: Session
  readonly layerGradient: Session
}

export function layerStack({ model, weights, ...sessions }: LayerStackOptions): LayerStack {
  const { base, runtime, parameters } = model
  const { config } = base
  const modules = [...linearModules(config).keys()]
  const compressor: Side = {
    role: 'encoder_adapter',
    layers: compressorLayers(base, model.pooling),
    positions: 'positions',
    bias: 'bias',
  }
  const generator: Side = {
    role: 'decoder_adapter',
    layers: config.num_hidden_layers,
    positions: 'promptPositions',
    bias: 'promptBias',
  }

  /** Names of a layer's factors, each with the name that the layer graphs know it by. */
  const factorNames = (side: Side, layer: number): [own: string, first: string][] =>
    modules.flatMap((module) =>
      (['A', 'B'] as const).map((factor): [string, string] => [
        factorName(layer, module, factor, side.role),
        factorName(0, module, factor, LAYER_ROLE),
      ]),
    )

  /** What a layer's graph is fed with beside hidden states, under the names of layer 0. */
  const layerFeeds = (side: Side, layer: number, { values, noise }: Pass): Values => {
    const feeds: Values = { positions: requireValue(values, side.positions), bias: requireValue(values, side.bias) }
    for (const name of layerParameters(config).keys()) {
      feeds[`model.layers.0.${name}`] = requireValue(weights, `model.layers.${layer}.${name}`)
    }
    if (slidesWithin(config, model.positions)) {
      feeds['window'] = int64([slidingWindow(config, layer) ?? model.positions], [])
    }
    for (const [own, first] of factorNames(side, layer)) feeds[first] = parameterOf(parameters, own)
    const mask = noise?.masks.get(side)?.[layer]
    if (mask) feeds['dropout'] = mask
    return feeds
  }

  return {
    compressor,
    generator,
    parameters: ({ role, layers }) => [...adapterShapes(config, model.lora, role, layers).keys()],
    async noise(values, seed) {
      const factors = toShared(dropoutFactors(values, model, seed)).data as Float32Array
      const masks = new Map<Side, Resident[]>()
      for (const side of [compressor, generator]) {
        const largest = tensorOf(values, side.positions).data.length * widestInput(config)
        const parts = Array.from({ length: side.layers }, (_, layer) => layerNoise(factors, layer, largest))
        masks.set(side, await Promise.all(parts.map((part) => runtime.share(float32(part, [part.length])))))
      }
      const release = async () => {
        await Promise.all([...masks.values()].flat().map((mask) => runtime.release(mask)))
      }
      return { masks, release }
    },
    async forward(side, embedded, pass) {
      const session = pass.noise ? sessions.layerWithDropout : sessions.layer
      const states = [embedded]
      let hidden = embedded
      for (let layer = 0; layer < side.layers; layer++) {
        pass.signal?.throwIfAborted()
        hidden = tensorOf(await session.run({ ...layerFeeds(side, layer, pass), hidden }), 'hidden')
        states.push(hidden)
      }
      return states
    },
    async backward(side, entered, gradient, found, pass) {
      let flowing = gradient
      for (let layer = side.layers - 1; layer >= 0; layer--) {
        pass.signal?.throwIfAborted()
        const hidden = takeLast(entered)
        const results = await sessions.layerGradient.run({
          ...layerFeeds(side, layer, pass),
          hidden,
          gradient: flowing,
        })
        flowing = tensorOf(results, 'grad:hidden')
        for (const [own, first] of factorNames(side, layer)) found[`grad:${own}`] = tensorOf(results, `grad:${first}`)
      }
      return flowing
    },
  }
}

function requireValue<Value>(values: Readonly<Record<string, Value>>, name: string): Value {
  const value = values[name]
  if (value === undefined) throw new RangeError(`There is no value '${name}'.`)
  return value
}

/** The tensor of that name, which must be there and be no resident. */
export function tensorOf(values: Readonly<Values>, name: string): HostTensor {
  const value = requireValue(values, name)
  if ('resident' in value) throw new RangeError(`'${name}' stays in the runtime.`)
  return value
}

/** Takes the last tensor off a list that must have one. */
export function takeLast(list: HostTensor[]): HostTensor {
  const last = list.pop()
  if (!last) throw new RangeError('No hidden states are left.')
  return last
}

import { ClaraError } from '../errors.ts'
import { float32, type HostTensor, int64 } from '../graph/dtype.ts'
import { addConstant, type Graph, type Tensor } from '../graph/graph.ts'
import { add, less, where } from '../ops/elementwise.ts'
import { reduceMax } from '../ops/reduce.ts'
import type { DecoderConfig } from './config.ts'
import type { RopeScaling } from './rope-scaling.ts'

/** Dimensions of each head that rotate, from the first; the others are left as they are. */
export const rotaryDim = ({ head_dim, partial_rotary_factor }: DecoderConfig): number =>
  Math.trunc(head_dim * partial_rotary_factor)

/**
 * Rotation per position of each pair of rotary dimensions, after the configuration's scaling.
 * @param length Positions of the sequence, on which `longrope` depends. Default: short.
 */
export function inverseFrequencies(config: DecoderConfig, length = 1): Float64Array {
  const half = rotaryDim(config) / 2
  const plain = Float64Array.from({ length: half }, (_, pair) => config.rope_theta ** (-pair / half))
  const scaling = config.rope_scaling
  switch (scaling?.rope_type) {
    case undefined:
    case 'dynamic':
      return plain
    case 'linear':
      return plain.map((frequency) => frequency / scaling.factor)
    case 'llama3':
      return plain.map((frequency) => llama3(frequency, scaling))
    case 'longrope': {
      const divisors = length > scaling.original_max_position_embeddings ? scaling.long_factor : scaling.short_factor
      return plain.map((frequency, pair) => frequency / (divisors[pair] ?? 1))
    }
  }
}

/** Llama 3: low frequencies are divided by the factor, high ones kept, those between blended. */
function llama3(frequency: number, scaling: Extract<RopeScaling, { rope_type: 'llama3' }>): number {
  const { factor, low_freq_factor: low, high_freq_factor: high, original_max_position_embeddings: trained } = scaling
  const wavelength = (2 * Math.PI) / frequency
  if (wavelength < trained / high) return frequency
  if (wavelength > trained / low) return frequency / factor
  const smooth = (trained / wavelength - low) / (high - low)
  return ((1 - smooth) * frequency) / factor + smooth * frequency
}

/**
 * Tables [positions, rotary dimensions / 2] of the cosines and sines of every position's rotation.
 * @param length Positions of the sequence. Default: all that the table has.
 */
export function rotaryTables(
  config: DecoderConfig,
  positions: number,
  length = positions,
): { readonly cos: HostTensor; readonly sin: HostTensor } {
  const scaling = config.rope_scaling
  if (scaling?.rope_type === 'dynamic' && positions > config.max_position_embeddings) {
    throw new ClaraError(`Rotary scaling 'dynamic' is known for sequences within max_position_embeddings only.`, {
      expected: `at most ${config.max_position_embeddings} positions`,
      received: String(positions),
    })
  }
  const size = scaling?.rope_type === 'longrope' ? scaling.attention_factor : 1
  const frequencies = inverseFrequencies(config, length)
  const half = frequencies.length
  const cos = new Float32Array(positions * half)
  const sin = new Float32Array(positions * half)
  for (let position = 0; position < positions; position++) {
    frequencies.forEach((frequency, pair) => {
      const angle = position * Math.fround(frequency)
      cos[position * half + pair] = size * Math.cos(angle)
      sin[position * half + pair] = size * Math.sin(angle)
    })
  }
  return { cos: float32(cos, [positions, half]), sin: float32(sin, [positions, half]) }
}

/** Rotary tables in a graph. */
export interface Rotary {
  readonly cos: Tensor
  readonly sin: Tensor
  /** Rows of the tables for positions int64 [batch, length] of one call. Default: the positions themselves. */
  readonly rows?: (positions: Tensor) => Tensor
}

/**
 * Declares the tables for sequences of up to `positions`. With `longrope`, where both lists of factors may be needed, they
 * lie below each other, and every call takes the rows of one: the long factors when its last position lies beyond the length
 * of the first training. Keys that are in a cache by then stay as they are, as in transformers when it continues embeddings.
 */
export function declareRotary(graph: Graph, config: DecoderConfig, positions: number): Rotary {
  const { rope_scaling: scaling } = config
  const switches = scaling?.rope_type === 'longrope' && positions > scaling.original_max_position_embeddings
  if (!switches) {
    const { cos, sin } = rotaryTables(config, positions)
    return { cos: addConstant(graph, cos), sin: addConstant(graph, sin) }
  }
  const original = scaling.original_max_position_embeddings
  const [short, long] = [rotaryTables(config, positions, original), rotaryTables(config, positions, original + 1)]
  const whole = (value: number) => addConstant(graph, int64([value], []))
  const known = new Map<Tensor, Tensor>()
  return {
    cos: addConstant(graph, joined(short.cos, long.cos)),
    sin: addConstant(graph, joined(short.sin, long.sin)),
    rows(places) {
      const found = known.get(places)
      if (found) return found
      const isLong = less(whole(original - 1), reduceMax(places))
      const rows = where(isLong, add(places, whole(positions)), places)
      known.set(places, rows)
      return rows
    },
  }
}

function joined(above: HostTensor, below: HostTensor): HostTensor {
  const data = new Float32Array(above.data.length + below.data.length)
  data.set(above.data as Float32Array)
  data.set(below.data as Float32Array, above.data.length)
  return float32(data, [(above.dims[0] ?? 0) + (below.dims[0] ?? 0), above.dims[1] ?? 0])
}

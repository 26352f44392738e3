import { ClaraError } from '../errors.ts'
import { float32, type HostTensor } from '../graph/dtype.ts'
import type { DecoderConfig } from './config.ts'

/** Rotation per position of each pair of rotary dimensions, after the configuration's scaling. */
export function inverseFrequencies(config: DecoderConfig): Float64Array {
  const half = config.head_dim / 2
  const plain = Float64Array.from({ length: half }, (_, pair) => config.rope_theta ** (-pair / half))
  const scaling = config.rope_scaling
  const kind = scaling?.rope_type ?? scaling?.type ?? 'default'
  if (!scaling || kind === 'default') return plain
  if (kind === 'linear') return plain.map((frequency) => frequency / (scaling.factor ?? 1))
  if (kind === 'llama3') return plain.map((frequency) => llama3(frequency, scaling))
  throw new ClaraError(`Rotary scaling '${kind}' is unknown.`, { expected: 'one of default, linear, llama3' })
}

/** Llama 3: low frequencies are divided by the factor, high ones kept, those between blended. */
function llama3(frequency: number, scaling: NonNullable<DecoderConfig['rope_scaling']>): number {
  const { factor = 8, low_freq_factor: low = 1, high_freq_factor: high = 4 } = scaling
  const trained = scaling.original_max_position_embeddings ?? 8192
  const wavelength = (2 * Math.PI) / frequency
  if (wavelength < trained / high) return frequency
  if (wavelength > trained / low) return frequency / factor
  const smooth = (trained / wavelength - low) / (high - low)
  return ((1 - smooth) * frequency) / factor + smooth * frequency
}

/** Tables [positions, head_dim / 2] of the cosines and sines of every position's rotation. */
export function rotaryTables(
  config: DecoderConfig,
  positions: number,
): { readonly cos: HostTensor; readonly sin: HostTensor } {
  const frequencies = inverseFrequencies(config)
  const half = frequencies.length
  const cos = new Float32Array(positions * half)
  const sin = new Float32Array(positions * half)
  for (let position = 0; position < positions; position++) {
    frequencies.forEach((frequency, pair) => {
      const angle = position * Math.fround(frequency)
      cos[position * half + pair] = Math.cos(angle)
      sin[position * half + pair] = Math.sin(angle)
    })
  }
  return { cos: float32(cos, [positions, half]), sin: float32(sin, [positions, half]) }
}

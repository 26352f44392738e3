/**
 * Weights as integers of 4 or 8 bits in blocks of 32 with one float16 scale each. Both are symmetric around a fixed zero, 8 or
 * 128, so that a block is its scale and its integers: w = (q - zero) · s.
 */
import { ClaraError } from '../errors.ts'
import { float16ToNumber, numberToFloat16 } from './half.ts'

/** Weights of one scale. */
const BLOCK = 32

export interface QuantisedBlocks {
  /** With 4 bits two weights share a byte, the first of them in its low half. */
  readonly values: Uint8Array
  /** float16 bits, one a block. */
  readonly scales: Uint16Array
}

/**
 * Rounds weights to the nearest step of their block.
 *
 * 8 bits: s = max |w| / 127, q = round(w / s) + 128. 4 bits have one more step below zero than above it, which goes to the
 * block's largest weight e, whatever its sign: s = -e / 8, q = min(round(w / s) + 8, 15). The scale is rounded to float16
 * before the weights are divided by it.
 *
 * @param values Length a multiple of 32.
 * @param name For the error.
 * @throws ClaraError when a weight is not finite, or too large for a float16 scale.
 */
export function quantiseBlocks(values: Float32Array, bits: 4 | 8, name: string): QuantisedBlocks {
  const blocks = values.length / BLOCK
  const scales = new Uint16Array(blocks)
  const quantised = new Uint8Array((values.length * bits) / 8)
  const round = bits === 4 ? roundToHalves : roundToBytes
  // without their sign, the bits of floats order as the numbers do, and what is not finite comes last
  const floatBits = new Int32Array(values.buffer, values.byteOffset, values.length)
  for (let block = 0; block < blocks; block++) {
    const start = block * BLOCK
    let [magnitude, extreme] = [-1, 0]
    for (let index = start; index < start + BLOCK; index++) {
      const candidate = (floatBits[index] as number) & 0x7fffffff
      if (candidate > magnitude) {
        magnitude = candidate
        extreme = index
      }
    }
    const value = values[extreme] as number
    const stored = numberToFloat16(bits === 4 ? -value / 8 : Math.abs(value) / 127)
    const scale = float16ToNumber(stored)
    if (!Number.isFinite(value) || !Number.isFinite(scale)) {
      throw new ClaraError(`The weight '${name}' cannot be quantised.`, {
        expected: 'finite numbers within the range of float16',
        received: String(value),
      })
    }
    scales[block] = stored
    round(values, start, scale === 0 ? 0 : 1 / scale, quantised)
  }
  return { values: quantised, scales }
}

type Round = (values: Float32Array, start: number, inverse: number, target: Uint8Array) => void

// a float16 scale may be smaller than the exact one, so the steps need their bounds

const roundToBytes: Round = (values, start, inverse, target) => {
  for (let index = start; index < start + BLOCK; index++) {
    const q = ((values[index] as number) * inverse + 128.5) | 0
    target[index] = q > 255 ? 255 : q < 0 ? 0 : q
  }
}

const roundToHalves: Round = (values, start, inverse, target) => {
  for (let index = start; index < start + BLOCK; index += 2) {
    const low = ((values[index] as number) * inverse + 8.5) | 0
    const high = ((values[index + 1] as number) * inverse + 8.5) | 0
    target[index >> 1] = (low > 15 ? 15 : low < 0 ? 0 : low) | ((high > 15 ? 15 : high < 0 ? 0 : high) << 4)
  }
}

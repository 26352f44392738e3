import { ClaraError } from '../errors.ts'
import { floatFromHalf, halfFromFloat } from './half.ts'
import type { Float16Memory, Float32Memory, Int8Memory, StoredMemory } from './store.ts'

/*
 * int8 with one scale per token: scale = max |x| / 127 over the token, q = round(x / scale). A quarter of the bytes of
 * float32, and no number is off by more than half a scale, that is max |x| / 254 of its own token.
 */

const largestCode = 127
/** Just below the largest float32: with a scale from more than this, 127 · scale could round to infinity. */
const largestMagnitude = 3.4028e38

/**
 * Memory tokens as int8, symmetric, one scale per token.
 *
 * @param memory Finite numbers, row-major [n, width].
 * @throws ClaraError if the length is not n * width or a number is not finite.
 */
export function quantiseMemory(memory: Float32Memory): Int8Memory {
  const { n, width, tokens } = memory
  checkLength(memory)
  const codes = new Int8Array(tokens.length)
  const scales = new Float32Array(n)
  for (let token = 0; token < n; token++) {
    const values = tokens.subarray(token * width, (token + 1) * width)
    let largest = 0
    for (const value of values) {
      if (!Number.isFinite(value)) {
        throw new ClaraError(`Memory token ${token} holds a number that is not finite.`, { received: String(value) })
      }
      largest = Math.max(largest, Math.abs(value))
    }
    // The stored (rounded) scale is the one to divide by, so that the error bound holds for what is read back.
    scales[token] = Math.min(largest, largestMagnitude) / largestCode
    const scale = scales[token] ?? 0
    if (scale === 0) continue
    for (let index = 0; index < width; index++) {
      const code = Math.round((values[index] ?? 0) / scale)
      codes[token * width + index] = Math.max(-largestCode, Math.min(largestCode, code))
    }
  }
  return { dtype: 'int8', tokens: codes, scales, n, width }
}

/**
 * Memory tokens at half precision: half the bytes of float32, each number within 2^-11 of itself (or 2^-25 near zero).
 *
 * @param memory Numbers of magnitude below 65,520, row-major [n, width].
 * @throws ClaraError if the length is not n * width or a number is not finite as a half.
 */
export function halveMemory(memory: Float32Memory): Float16Memory {
  checkLength(memory)
  const { n, width } = memory
  const tokens = Uint16Array.from(memory.tokens, (value, index) => {
    const half = Number.isFinite(value) ? halfFromFloat(value) : 0x7c00
    if ((half & 0x7c00) !== 0x7c00) return half
    throw new ClaraError(`Memory token ${Math.floor(index / width)} holds a number that no half can hold.`, {
      expected: 'magnitudes below 65,520',
      received: String(value),
      hint: 'Keep this memory as int8 or float32.',
    })
  })
  return { dtype: 'float16', tokens, n, width }
}

function checkLength({ n, width, tokens }: Float32Memory): void {
  if (tokens.length === n * width) return
  throw new ClaraError('The memory to quantise has the wrong length.', {
    expected: `${n * width} numbers (${n} tokens of ${width})`,
    received: String(tokens.length),
  })
}

/** The memory tokens as float32, row-major [n, width]; float32 memory comes back as it is, without a copy. */
export function dequantiseMemory(memory: StoredMemory): Float32Memory {
  if (memory.dtype === 'float32') return memory
  const { n, width, tokens } = memory
  if (memory.dtype === 'float16') {
    return { dtype: 'float32', tokens: Float32Array.from(tokens, floatFromHalf), n, width }
  }
  const values = new Float32Array(tokens.length)
  for (let token = 0; token < n; token++) {
    const scale = memory.scales[token] ?? 0
    const end = (token + 1) * width
    for (let index = token * width; index < end; index++) values[index] = (tokens[index] ?? 0) * scale
  }
  return { dtype: 'float32', tokens: values, n, width }
}

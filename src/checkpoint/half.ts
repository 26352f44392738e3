/**
 * The two 16-bit floating-point formats of checkpoints. float16 (IEEE 754 binary16: 5 exponent bits, 10 fraction bits) and bfloat16
 * (the upper half of a float32). Widening is exact; narrowing rounds to the nearest value, ties to even.
 */

const floatBuffer = new Float32Array(1)
const floatBits = new Uint32Array(floatBuffer.buffer)

function bitsOf(value: number): number {
  floatBuffer[0] = value
  return floatBits[0] as number
}

function widenedBits(half: number): number {
  const sign = (half & 0x8000) << 16
  const exponent = (half >> 10) & 0x1f
  const fraction = half & 0x3ff
  if (exponent === 0x1f) return (sign | 0x7f800000 | (fraction << 13)) >>> 0
  if (exponent !== 0) return (sign | ((exponent + 112) << 23) | (fraction << 13)) >>> 0
  if (fraction === 0) return sign >>> 0
  // A subnormal half is a normal float32: shift until the leading one takes the implicit place.
  const shift = Math.clz32(fraction) - 21
  return (sign | ((113 - shift) << 23) | (((fraction << shift) & 0x3ff) << 13)) >>> 0
}

/** Every half as a float32: 256 KiB that make widening one look-up. */
const widened = (() => {
  const bits = new Uint32Array(65536)
  for (let half = 0; half < 65536; half++) bits[half] = widenedBits(half)
  return new Float32Array(bits.buffer)
})()

/** The number that 16 bits stand for in float16. */
export function float16ToNumber(bits: number): number {
  return widened[bits & 0xffff] as number
}

/** The float16 bits nearest to a float32 number, ties to even; beyond the range, infinity. */
export function numberToFloat16(value: number): number {
  const bits = bitsOf(value)
  const sign = (bits >>> 16) & 0x8000
  const magnitude = bits & 0x7fffffff
  if (magnitude >= 0x7f800000)
    return magnitude === 0x7f800000 ? sign | 0x7c00 : sign | 0x7e00 | ((magnitude >>> 13) & 0x1ff)
  if (magnitude >= 0x47800000) return sign | 0x7c00
  if (magnitude >= 0x38800000) {
    // Normal in float16; a carry out of the fraction moves into the exponent, and at the top into infinity.
    const rounding = 0xfff + ((magnitude >>> 13) & 1)
    return sign | ((magnitude - 0x38000000 + rounding) >>> 13)
  }
  // At most half of the smallest subnormal, 2^-25, rounds to zero.
  if (magnitude <= 0x33000000) return sign
  const shift = 126 - (magnitude >>> 23)
  const significand = (magnitude & 0x7fffff) | 0x800000
  const kept = significand >>> shift
  const dropped = significand & ((1 << shift) - 1)
  const half = 1 << (shift - 1)
  return sign | (kept + (dropped > half || (dropped === half && (kept & 1) === 1) ? 1 : 0))
}

/** The number that 16 bits stand for in bfloat16. */
export function bfloat16ToNumber(bits: number): number {
  floatBits[0] = (bits & 0xffff) << 16
  return floatBuffer[0] as number
}

/** The bfloat16 bits nearest to a float32 number, ties to even. */
export function numberToBfloat16(value: number): number {
  const bits = bitsOf(value)
  // A NaN must stay one: rounding could carry it into infinity.
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff
}

/** float16 bits as float32, into `target` when given. */
export function widenFloat16(
  source: Uint16Array,
  target: Float32Array = new Float32Array(source.length),
): Float32Array {
  for (let i = 0; i < source.length; i++) target[i] = widened[source[i] as number] as number
  return target
}

/** bfloat16 bits as float32, into `target` when given. */
export function widenBfloat16(
  source: Uint16Array,
  target: Float32Array = new Float32Array(source.length),
): Float32Array {
  const bits = new Uint32Array(target.buffer, target.byteOffset, source.length)
  for (let i = 0; i < source.length; i++) bits[i] = (source[i] as number) << 16
  return target
}

/** float32 as float16 bits. */
export function narrowToFloat16(source: Float32Array): Uint16Array {
  const target = new Uint16Array(source.length)
  for (let i = 0; i < source.length; i++) target[i] = numberToFloat16(source[i] as number)
  return target
}

/** float32 as bfloat16 bits. */
export function narrowToBfloat16(source: Float32Array): Uint16Array {
  const target = new Uint16Array(source.length)
  for (let i = 0; i < source.length; i++) target[i] = numberToBfloat16(source[i] as number)
  return target
}

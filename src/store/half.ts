const float = new Float32Array(1)
const bits = new Uint32Array(float.buffer)

/** The nearest half-precision number's bits, ties to even; beyond 65,504 it is infinite. `value` is finite. */
export function halfFromFloat(value: number): number {
  float[0] = value
  const word = bits[0] ?? 0
  const sign = (word >>> 16) & 0x8000
  const magnitude = word & 0x7fffffff
  // Below 2^-14 halves are multiples of 2^-24, which float64 division and rounding give exactly.
  if (magnitude < 0x38800000) return sign | roundToEven(Math.abs(float[0] ?? 0) * 2 ** 24)
  if (magnitude >= 0x47800000) return sign | 0x7c00
  // The exponent's bias moves from 127 to 15; 13 bits of the fraction go, and a carry may raise the exponent, as it should.
  const rebased = magnitude - (112 << 23)
  return sign | ((rebased + 0xfff + ((rebased >>> 13) & 1)) >>> 13)
}

/** The number that half-precision bits stand for. */
export function floatFromHalf(half: number): number {
  const sign = half & 0x8000 ? -1 : 1
  const exponent = (half >>> 10) & 0x1f
  const fraction = half & 0x3ff
  if (exponent === 0) return sign * fraction * 2 ** -24
  if (exponent === 31) return fraction === 0 ? sign * Infinity : Number.NaN
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15)
}

function roundToEven(value: number): number {
  const floor = Math.floor(value)
  const rest = value - floor
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor
}

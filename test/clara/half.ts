/** The float16 nearest to a number, ties to even, by the definition of the format. */
export function roundToFloat16(x: number): number {
  if (x === 0 || !Number.isFinite(x)) return x
  const exponent = Math.max(-14, Math.floor(Math.log2(Math.abs(x))))
  const unit = 2 ** (exponent - 10)
  const scaled = x / unit
  const floor = Math.floor(scaled)
  const rest = scaled - floor
  const rounded = rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor
  return rounded * unit
}

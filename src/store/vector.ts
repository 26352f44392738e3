/** The vector at length 1. Any finite vector but zero will do, however long or short. */
export function unitVector(vector: Float32Array): Float32Array {
  // Divided by the largest number first: squares of tiny or huge numbers would leave the range.
  let largest = 0
  for (const value of vector) largest = Math.max(largest, Math.abs(value))
  let squares = 0
  for (const value of vector) squares += (value / largest) ** 2
  const length = Math.sqrt(squares)
  return vector.map((value) => value / largest / length)
}

export function dot(a: Float32Array, b: Float32Array): number {
  let sum = 0
  for (let index = 0; index < a.length; index++) sum += (a[index] ?? 0) * (b[index] ?? 0)
  return sum
}

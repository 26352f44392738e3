/** Arithmetic on row-major float64 arrays that the operators' values are compared with. */

export const sum = (values: ArrayLike<number>): number => Array.from(values).reduce((total, value) => total + value, 0)

/** Rows of a matrix. */
export function rowsOf(data: Float64Array, width: number): Float64Array[] {
  return Array.from({ length: data.length / width }, (_, row) => data.subarray(row * width, (row + 1) * width))
}

/** Element at integer coordinates; coordinates along axes of length 1 are ignored, missing leading ones too. */
export function broadcastAt(data: ArrayLike<number>, dims: readonly number[], coordinates: readonly number[]): number {
  const skipped = coordinates.length - dims.length
  const offset = dims.reduce((at, dim, axis) => at * dim + (dim === 1 ? 0 : (coordinates[axis + skipped] ?? 0)), 0)
  return data[offset] ?? Number.NaN
}

/** All coordinates of a shape, in row-major order. */
export function coordinatesOf(dims: readonly number[]): number[][] {
  return dims.reduce<number[][]>(
    (prefixes, dim) => prefixes.flatMap((prefix) => Array.from({ length: dim }, (_, i) => [...prefix, i])),
    [[]],
  )
}

/** alpha · op(A) op(B) of two matrices. */
export function product(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  { rows, inner, columns, transposeA = false, transposeB = false, alpha = 1 }: ProductSize,
): number[] {
  return coordinatesOf([rows, columns]).map(([i = 0, j = 0]) => {
    let total = 0
    for (let k = 0; k < inner; k++) {
      const left = a[transposeA ? k * rows + i : i * inner + k] ?? Number.NaN
      const right = b[transposeB ? j * inner + k : k * columns + j] ?? Number.NaN
      total += left * right
    }
    return alpha * total
  })
}

export interface ProductSize {
  readonly rows: number
  readonly inner: number
  readonly columns: number
  readonly transposeA?: boolean
  readonly transposeB?: boolean
  readonly alpha?: number
}

export function softmax(row: Float64Array): Float64Array {
  const largest = Math.max(...row)
  const exponentials = row.map((value) => Math.exp(value - largest))
  const total = sum(exponentials)
  return exponentials.map((value) => value / total)
}

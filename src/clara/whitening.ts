/*
 * Whitening: after it, no direction is common to many tokens. A mean over tokens then shows what is rare in a text, as the best match of a single token does. The
 * covariance of few tokens is uncertain, so its mean variance is added to every direction.
 */

/**
 * The lower triangle L, row by row, of the Cholesky factorisation L·Lᵀ = weight · C + λ · I, where C is the covariance of the tokens around
 * the centre and λ its mean variance.
 *
 * @param tokens Vectors of equal length, the centre subtracted.
 * @param weight How much C is trusted, in (0, 1].
 */
export function whiteningOf(tokens: readonly Float64Array[], weight: number): Float32Array {
  const width = tokens[0]?.length ?? 0
  const matrix = new Float64Array(triangle(width))
  for (const token of tokens) {
    for (let row = 0, place = 0; row < width; row++) {
      const value = ((token[row] ?? 0) * weight) / tokens.length
      for (let column = 0; column <= row; column++, place++)
        matrix[place] = (matrix[place] ?? 0) + value * (token[column] ?? 0)
    }
  }
  let trace = 0
  for (let row = 0; row < width; row++) trace += matrix[triangle(row) + row] ?? 0
  const ridge = trace / width || 1
  for (let row = 0; row < width; row++) matrix[triangle(row) + row] = (matrix[triangle(row) + row] ?? 0) + ridge
  return Float32Array.from(factorised(matrix, width))
}

/** Cholesky-Banachiewicz in place. */
function factorised(matrix: Float64Array, width: number): Float64Array {
  for (let row = 0; row < width; row++) {
    const start = triangle(row)
    for (let column = 0; column <= row; column++) {
      const other = triangle(column)
      let sum = matrix[start + column] ?? 0
      for (let index = 0; index < column; index++) sum -= (matrix[start + index] ?? 0) * (matrix[other + index] ?? 0)
      matrix[start + column] = row === column ? Math.sqrt(sum) : sum / (matrix[other + column] ?? 1)
    }
  }
  return matrix
}

/** Solves L·y = vector, which whitens it, in place. */
export function whiten(vector: Float32Array, factor: Float32Array): void {
  for (let row = 0, place = 0; row < vector.length; row++) {
    let sum = vector[row] ?? 0
    for (let index = 0; index < row; index++, place++) sum -= (factor[place] ?? 0) * (vector[index] ?? 0)
    vector[row] = sum / (factor[place++] ?? 1)
  }
}

/** Lᵀ·vector in place: its product with a whitened vector is its product with that vector as it was. */
export function counterpart(vector: Float32Array, factor: Float32Array): void {
  for (let row = 0; row < vector.length; row++) {
    let sum = 0
    for (let below = row; below < vector.length; below++)
      sum += (factor[triangle(below) + row] ?? 0) * (vector[below] ?? 0)
    vector[row] = sum
  }
}

/** The inverse of L·Lᵀ, row by row. */
export function inverseOf(factor: Float32Array, width: number): Float32Array {
  const inverse = new Float32Array(width * width)
  for (let column = 0; column < width; column++) {
    const solution = inverse.subarray(column * width, (column + 1) * width)
    solution[column] = 1
    whiten(solution, factor)
    // Lᵀ·x = y, from the last row up
    for (let row = width - 1; row >= 0; row--) {
      let sum = solution[row] ?? 0
      for (let below = row + 1; below < width; below++)
        sum -= (factor[triangle(below) + row] ?? 0) * (solution[below] ?? 0)
      solution[row] = sum / (factor[triangle(row) + row] ?? 1)
    }
  }
  return inverse
}

/** Numbers of a lower triangle with so many rows: where the next row begins. */
export const triangle = (rows: number): number => (rows * (rows + 1)) / 2

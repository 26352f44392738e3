/**
 * The mean, over the query's tokens, of the best cosine with a token of the row: what sign codes estimate. A token of zeros has cosine 0 with all.
 *
 * @param query [n, width]
 * @param row [m, width], m at least 1
 */
export function maxSimilarity(query: Float32Array, row: Float32Array, width: number): number {
  let sum = 0
  for (let asked = 0; asked < query.length; asked += width) {
    let most = Number.NEGATIVE_INFINITY
    for (let token = 0; token < row.length; token += width)
      most = Math.max(most, cosine(query, asked, row, token, width))
    sum += most
  }
  return (sum * width) / query.length
}

function cosine(one: Float32Array, from: number, other: Float32Array, at: number, width: number): number {
  let [product, a, b] = [0, 0, 0]
  for (let index = 0; index < width; index++) {
    const [x, y] = [one[from + index] ?? 0, other[at + index] ?? 0]
    product += x * y
    a += x * x
    b += y * y
  }
  return a === 0 || b === 0 ? 0 : product / Math.sqrt(a * b)
}

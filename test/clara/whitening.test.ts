import { expect, test } from 'vitest'
import { inverseOf, triangle, whiten, whiteningOf } from '../../src/clara/whitening.ts'
import { createRandom } from '../../src/data/random.ts'

const width = 5
const random = createRandom(4)
const tokens = Array.from({ length: 40 }, () =>
  Float64Array.from({ length: width }, (_, place) => random.normal() * (1 + 3 * place)),
)
/** The covariance with its mean variance added along the diagonal, by definition. */
const covariance = Array.from({ length: width }, (_, row) =>
  Array.from({ length: width }, (_, column) => {
    const of = (one: number, other: number) =>
      tokens.reduce((sum, token) => sum + (token[one] ?? 0) * (token[other] ?? 0), 0) / tokens.length
    const ridge = Array.from({ length: width }, (_, place) => of(place, place)).reduce((a, b) => a + b) / width
    return of(row, column) + (row === column ? ridge : 0)
  }),
)

test('the inverse of a covariance times the covariance changes nothing', () => {
  const factor = whiteningOf(tokens, 1)
  expect(factor).toHaveLength(triangle(width))
  const inverse = inverseOf(factor, width)
  covariance.forEach((row, at) => {
    for (let column = 0; column < width; column++) {
      const product = row.reduce((sum, value, place) => sum + value * (inverse[place * width + column] ?? 0), 0)
      expect(product).toBeCloseTo(Number(at === column), 4)
    }
  })
})

test('the product of two whitened vectors is theirs by the inverse', () => {
  const factor = whiteningOf(tokens, 1)
  const inverse = inverseOf(factor, width)
  const [one, other] = [tokens[0] ?? [], tokens[1] ?? []].map((token) => Float32Array.from(token))
  if (!one || !other) throw new Error('two tokens')
  const expected = one.reduce(
    (sum, value, row) =>
      sum + value * other.reduce((inner, each, at) => inner + each * (inverse[row * width + at] ?? 0), 0),
    0,
  )
  whiten(one, factor)
  whiten(other, factor)
  expect(one.reduce((sum, value, at) => sum + value * (other[at] ?? 0), 0)).toBeCloseTo(expected, 4)
})

import { expect, test } from 'vitest'
import { rotation } from '../../src/model/rotation.ts'

test.each([1, 2, 9, 64, 96])('a rotation of %i channels keeps lengths and lets no channel stand out', (size) => {
  const matrix = rotation(size).data as Float32Array
  const at = (row: number, column: number) => matrix[row * size + column] ?? Number.NaN
  for (let a = 0; a < size; a++) {
    for (let b = 0; b < size; b++) {
      let product = 0
      for (let index = 0; index < size; index++) product += at(a, index) * at(b, index)
      expect(product).toBeCloseTo(a === b ? 1 : 0, 5)
    }
  }
  expect(Math.max(...matrix.map(Math.abs))).toBeLessThanOrEqual(Math.sqrt(2 / size) + 1e-6)
})

import { cachedAttention } from '../../../src/ops/attention.ts'
import { type OperatorCase, operatorCase, values } from './case.ts'
import { softmax } from './plain.ts'

const [batch, length, past, capacity, heads, groups, width] = [1, 2, 3, 5, 4, 2, 8]
const total = past + length
const fixed = (dims: readonly number[]) => ({ ...values(dims), differentiable: false }) as const
const int32 = (...numbers: number[]) => ({
  value: { dtype: 'int32', dims: [numbers.length], data: Int32Array.from(numbers) } as const,
})

/** One head after the other, one position after the other. Of the cache only the first `past` positions exist. */
function reference(
  x: Record<'queries' | 'keys' | 'values' | 'pastKeys' | 'pastValues' | 'bias' | 'last' | 'total', Float64Array>,
): number[] {
  const result = new Array<number>(length * heads * width).fill(0)
  for (let head = 0; head < heads; head++) {
    const group = Math.floor((head * groups) / heads)
    const element = (old: Float64Array, now: Float64Array, position: number, index: number) =>
      (position < past
        ? old[(group * capacity + position) * width + index]
        : now[((position - past) * groups + group) * width + index]) ?? Number.NaN
    for (let row = 0; row < length; row++) {
      const seen = past + row + 1
      const scores = Float64Array.from({ length: seen }, (_, position) => {
        let score = 0
        for (let index = 0; index < width; index++) {
          const query = x.queries[(row * heads + head) * width + index] ?? Number.NaN
          score += query * element(x.pastKeys, x.keys, position, index)
        }
        return score / Math.sqrt(width) + (x.bias[row * total + position] ?? Number.NaN)
      })
      const weights = softmax(scores)
      for (let index = 0; index < width; index++) {
        result[(row * heads + head) * width + index] = weights.reduce(
          (sum, weight, position) => sum + weight * element(x.pastValues, x.values, position, index),
          0,
        )
      }
    }
  }
  return result
}

export const attentionCases: readonly OperatorCase[] = [
  operatorCase('CachedAttention', 'two new positions behind three of a cache with room for five', {
    inputs: {
      queries: fixed([batch, length, heads * width]),
      keys: fixed([batch, length, groups * width]),
      values: fixed([batch, length, groups * width]),
      pastKeys: fixed([batch, groups, capacity, width]),
      pastValues: fixed([batch, groups, capacity, width]),
      bias: fixed([batch, 1, length, total]),
      last: int32(total - 1),
      total: int32(total),
    },
    build: (x) =>
      cachedAttention(x.queries, x.keys, x.values, {
        heads,
        groups,
        past: { keys: x.pastKeys, values: x.pastValues },
        lastPositions: x.last,
        total: x.total,
        bias: x.bias,
      }),
    reference,
  }),
]

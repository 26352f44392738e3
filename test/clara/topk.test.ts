import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { gradients } from '../../src/autodiff/gradients.ts'
import { chosenMemory, differentiableTopK, hardTopK } from '../../src/clara/topk.ts'
import { float32, type HostTensor } from '../../src/graph/dtype.ts'
import { addInput, addOutput, createGraph } from '../../src/graph/graph.ts'
import type { Dim } from '../../src/graph/shape.ts'
import { multiply } from '../../src/ops/elementwise.ts'
import { reduceSum } from '../../src/ops/reduce.ts'
import { encodeGraph } from '../../src/ops/table.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'

let runtime: Runtime
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
})
afterAll(() => runtime.close())

/** Choice, weights and the gradient of Σ weights · readout, for a graph whose pool is `pool`. */
async function choose(
  scores: readonly (readonly number[])[],
  k: number,
  temperature: number,
  readout: readonly number[],
  pool?: Dim,
) {
  const [rows, width] = [scores.length, scores[0]?.length ?? 0]
  const graph = createGraph('choose')
  const input = addInput(graph, 'scores', 'float32', [rows, pool ?? width])
  const { weights, indices } = differentiableTopK(input, k, temperature)
  const [gradient] = gradients(reduceSum(multiply(weights, addInput(graph, 'readout', 'float32', weights.shape))), [
    input,
  ])
  if (gradient) addOutput(graph, 'gradient', gradient)
  addOutput(graph, 'weights', weights)
  addOutput(graph, 'indices', indices)
  await using session = await runtime.open(encodeGraph(graph))
  const results = await session.run({
    scores: float32(scores.flat(), [rows, width]),
    readout: float32(readout, [rows, k, width]),
  })
  const numbers = (name: string) => Array.from((results[name] as HostTensor).data, Number)
  return { weights: numbers('weights'), indices: numbers('indices'), gradient: numbers('gradient') }
}

/** Slot j's soft distribution in float64, written down from its definition. */
function softSlots(scores: readonly number[], taken: readonly number[], k: number, temperature: number): number[] {
  return Array.from({ length: k }, (_, slot) => {
    const logits = scores.map(
      (score, place) => score / temperature + Math.log((taken.slice(0, slot).includes(place) ? 0 : 1) + 1e-8),
    )
    const largest = Math.max(...logits)
    const powers = logits.map((logit) => Math.exp(logit - largest))
    const sum = powers.reduce((a, b) => a + b, 0)
    return powers.map((power) => power / sum)
  }).flat()
}

const scores = [
  [0.3, -0.2, 0.9, 0.5, 0.1],
  [0.05, 0.8, 0.75, -0.4, 0.2],
]
const readout = Array.from({ length: 30 }, (_, index) => Math.sin(index * 1.7))

describe('the differentiable top-k', () => {
  test('forward is exactly the hard choice, best first', async () => {
    const { weights, indices } = await choose(scores, 3, 0.02, readout)
    expect(indices).toEqual([2, 3, 0, 1, 2, 4])
    expect(weights).toEqual(
      [2, 3, 0, 1, 2, 4].flatMap((chosen) => [0, 1, 2, 3, 4].map((place) => Number(place === chosen))),
    )
  })

  test.each([1, 2, 3])('with k = %i the gradient is that of the masked soft distributions', async (k) => {
    const used = readout.slice(0, 2 * k * 5)
    const { gradient, indices } = await choose(scores, k, 0.7, used)
    const step = 1e-5
    const numeric = scores.flatMap((row, batch) => {
      const taken = indices.slice(batch * k, (batch + 1) * k)
      const value = (shifted: readonly number[]) =>
        softSlots(shifted, taken, k, 0.7).reduce((sum, weight, at) => sum + weight * (used[batch * k * 5 + at] ?? 0), 0)
      const moved = (place: number, by: number) => row.map((score, at) => (at === place ? score + by : score))
      return row.map((_, place) => (value(moved(place, step)) - value(moved(place, -step))) / (2 * step))
    })
    expect(gradient).toHaveLength(10)
    gradient.forEach((value, at) => {
      expect(value).toBeCloseTo(numeric[at] ?? Number.NaN, 5)
    })
  })

  test('a pool whose size is known only at run time gives the same', async () => {
    expect(await choose(scores, 3, 0.7, readout, 'pool')).toEqual(await choose(scores, 3, 0.7, readout))
  })

  test('the chosen memory is that of the chosen documents', async () => {
    const graph = createGraph('memory')
    const { weights } = differentiableTopK(addInput(graph, 'scores', 'float32', [2, 5]), 2, 0.02)
    addOutput(graph, 'chosen', chosenMemory(weights, addInput(graph, 'memory', 'float32', [2, 5, 2, 3])))
    await using session = await runtime.open(encodeGraph(graph))
    const memory = Float32Array.from({ length: 60 }, (_, index) => index)
    const { chosen } = await session.run({
      scores: float32(scores.flat(), [2, 5]),
      memory: float32(memory, [2, 5, 2, 3]),
    })
    const document = (batch: number, place: number) => [
      ...memory.subarray((batch * 5 + place) * 6, (batch * 5 + place + 1) * 6),
    ]
    expect(chosen?.dims).toEqual([2, 2, 2, 3])
    expect([...(chosen?.data ?? [])]).toEqual(
      [
        [0, 2],
        [0, 3],
        [1, 1],
        [1, 2],
      ].flatMap(([batch = 0, place = 0]) => document(batch, place)),
    )
  })

  test('k beyond the pool is an error that names both', () => {
    const pool = addInput(createGraph('small'), 'scores', 'float32', [2, 3])
    expect(() => differentiableTopK(pool, 4, 0.02)).toThrow(/4 best of 3 documents/)
    expect(() => hardTopK([0.1, 0.2, 0.3], 4)).toThrow(/4 best of 3 documents/)
    expect(() => hardTopK([0.1], 0)).toThrow(/0 best of 1 documents/)
  })
})

describe('the hard top-k', () => {
  test('gives the k best in descending order, of equals the earlier one', () => {
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: -3, max: 3 }), { minLength: 1, maxLength: 20 }),
        fc.nat(),
        (scores, seed) => {
          const k = 1 + (seed % scores.length)
          const chosen = hardTopK(scores, k)
          expect(new Set(chosen).size).toBe(k)
          const rank = (place: number) =>
            scores.filter((score, other) => score > (scores[place] ?? 0) || (score === scores[place] && other < place))
              .length
          expect(chosen.map(rank)).toEqual(Array.from({ length: k }, (_, slot) => slot))
        },
      ),
    )
  })

  test('a score that is not a number is an error, not a place', () => {
    expect(() => hardTopK([0.5, Number.NaN], 1)).toThrow(/candidate 1/)
  })
})

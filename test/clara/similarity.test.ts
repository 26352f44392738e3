import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { check } from '../../src/autodiff/check.ts'
import { flatSimilarity, maxSimilarity, memorySimilarity } from '../../src/clara/similarity.ts'
import { createRandom } from '../../src/data/random.ts'
import { float32, type HostTensor } from '../../src/graph/dtype.ts'
import { addInput, addOutput, createGraph } from '../../src/graph/graph.ts'
import { encodeGraph } from '../../src/ops/table.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'

let runtime: Runtime
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
})
afterAll(() => runtime.close())

const random = createRandom(5)
const normal = (...dims: number[]): HostTensor =>
  float32(
    Float32Array.from({ length: dims.reduce((a, b) => a * b, 1) }, () => random.normal()),
    dims,
  )
const [batch, pool, asked, tokens, hidden] = [2, 3, 4, 5, 6]
const query = normal(batch, asked, hidden)
const documents = normal(batch, pool, tokens, hidden)

function angle(a: ArrayLike<number>, b: ArrayLike<number>): number {
  const dot = (x: ArrayLike<number>, y: ArrayLike<number>) =>
    Array.from(x).reduce((sum, value, at) => sum + value * (y[at] ?? 0), 0)
  return dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b))
}

const part = (values: ArrayLike<number>, index: number, size: number) =>
  Array.from(values).slice(index * size, (index + 1) * size)

/** Maxsim of every document by its definition, over the first so many tokens of each. */
function maxsimTable(
  q: ArrayLike<number>,
  d: ArrayLike<number>,
  queryLength: (row: number) => number,
  length: (document: number) => number,
) {
  return Array.from({ length: batch * pool }, (_, document) => {
    const row = Math.floor(document / pool)
    let sum = 0
    for (let token = 0; token < queryLength(row); token++) {
      const cosines = Array.from({ length: length(document) }, (_, other) =>
        angle(part(q, row * asked + token, hidden), part(d, document * tokens + other, hidden)),
      )
      sum += Math.max(...cosines)
    }
    return sum
  })
}

describe('in a graph', () => {
  test('flat is the cosine of flattened memories, with its gradients', async () => {
    await check(runtime, {
      inputs: { q: { value: normal(batch, tokens, hidden) }, d: { value: documents } },
      build: ({ q, d }) => flatSimilarity(q, d),
      reference: ({ q, d }) =>
        Array.from({ length: batch * pool }, (_, at) =>
          angle(part(q, Math.floor(at / pool), tokens * hidden), part(d, at, tokens * hidden)),
        ),
    })
  })

  test('maxsim is the sum of best cosines, with its gradients', async () => {
    await check(runtime, {
      inputs: { q: { value: query }, d: { value: documents } },
      build: ({ q, d }) => maxSimilarity(q, d),
      reference: ({ q, d }) =>
        maxsimTable(
          q,
          d,
          () => asked,
          () => tokens,
        ),
      step: 1 / 64,
    })
  })

  test('masks leave padded tokens out of maxsim, on both sides', async () => {
    const [queryLengths, lengths] = [
      [4, 2],
      [5, 1, 3, 2, 4, 5],
    ]
    const mask = (list: readonly number[], width: number) =>
      list.flatMap((length) => Array.from({ length: width }, (_, token) => Number(token < length)))
    await check(runtime, {
      inputs: {
        q: { value: query },
        d: { value: documents },
        queryMask: { value: float32(mask(queryLengths, asked), [batch, asked]), differentiable: false },
        mask: { value: float32(mask(lengths, tokens), [batch, pool, tokens]), differentiable: false },
      },
      build: ({ q, d, queryMask, mask: present }) => maxSimilarity(q, d, { query: queryMask, documents: present }),
      reference: ({ q, d }) =>
        maxsimTable(
          q,
          d,
          (row) => queryLengths[row] ?? 0,
          (document) => lengths[document] ?? 0,
        ),
      step: 1 / 64,
    })
  })

  test('a document without tokens is far behind every other', async () => {
    const graph = createGraph('empty')
    const inputs = {
      q: addInput(graph, 'q', 'float32', query.dims),
      d: addInput(graph, 'd', 'float32', documents.dims),
      mask: addInput(graph, 'mask', 'float32', [batch, pool, tokens]),
    }
    addOutput(graph, 'scores', maxSimilarity(inputs.q, inputs.d, { documents: inputs.mask }))
    await using session = await runtime.open(encodeGraph(graph))
    const present = Float32Array.from({ length: batch * pool * tokens }, (_, at) =>
      Number(Math.floor(at / tokens) !== 1),
    )
    const { scores } = await session.run({ q: query, d: documents, mask: float32(present, [batch, pool, tokens]) })
    const values = Array.from(scores?.data ?? [], Number)
    expect(values).toHaveLength(batch * pool)
    values.forEach((score, at) => {
      if (at === 1) expect(score).toBeLessThan(-1000)
      else expect(Math.abs(score)).toBeLessThanOrEqual(asked)
    })
  })

  test('flat refuses different numbers of memory tokens when the graph is built', () => {
    const graph = createGraph('refused')
    const q = addInput(graph, 'q', 'float32', [batch, asked, hidden])
    const d = addInput(graph, 'd', 'float32', documents.dims)
    expect(() => flatSimilarity(q, d)).toThrow(/differ in memory tokens/)
  })
})

describe('on plain numbers', () => {
  test('both agree with their definitions', () => {
    const [q, d] = [query.data as Float32Array, documents.data as Float32Array]
    const expected = maxsimTable(
      q,
      d,
      () => asked,
      () => tokens,
    )
    for (let document = 0; document < batch * pool; document++) {
      const row = Math.floor(document / pool)
      const memory = d.subarray(document * tokens * hidden, (document + 1) * tokens * hidden)
      const question = q.subarray(row * asked * hidden, (row + 1) * asked * hidden)
      expect(memorySimilarity('maxsim', question, memory, hidden)).toBeCloseTo(expected[document] ?? Number.NaN, 6)
      const other = d.subarray(0, tokens * hidden)
      expect(memorySimilarity('flat', other, memory, hidden)).toBeCloseTo(angle(other, memory), 6)
    }
  })

  test('they are one for memories of one token; scale does not matter; a memory is nearest to itself', () => {
    const numbers = fc.array(fc.double({ min: -4, max: 4, noNaN: true }), { minLength: 6, maxLength: 6 })
    const vector = numbers
      .filter((values) => values.some((value) => Math.abs(value) > 0.1))
      .map((values) => Float32Array.from(values))
    fc.assert(
      fc.property(vector, vector, fc.double({ min: 0.5, max: 8, noNaN: true }), (a, b, factor) => {
        const flat = memorySimilarity('flat', a, b, 6)
        expect(memorySimilarity('maxsim', a, b, 6)).toBeCloseTo(flat, 6)
        const scaled = a.map((value) => value * factor)
        expect(memorySimilarity('flat', scaled, b, 6)).toBeCloseTo(flat, 5)
        expect(memorySimilarity('flat', a, a, 6)).toBeCloseTo(1, 6)
        const both = Float32Array.from([...a, ...b])
        expect(memorySimilarity('maxsim', both, both, 6)).toBeCloseTo(2, 6)
        expect(flat).toBeLessThanOrEqual(1 + 1e-6)
      }),
    )
  })

  test('flat needs equally many tokens; maxsim does not', () => {
    const [one, two] = [new Float32Array(6).fill(1), new Float32Array(12).fill(1)]
    expect(() => memorySimilarity('flat', one, two, 6)).toThrow(/query of 1 memory tokens .* document of 2.*maxsim/)
    expect(memorySimilarity('maxsim', one, two, 6)).toBeCloseTo(1, 6)
  })

  test('memory of another width is refused', () => {
    expect(() => memorySimilarity('maxsim', new Float32Array(6), new Float32Array(10), 6)).toThrow(
      /document's memory has 10 numbers/,
    )
    expect(() => memorySimilarity('flat', new Float32Array(0), new Float32Array(6), 6)).toThrow(
      /query's memory has 0 numbers/,
    )
  })
})

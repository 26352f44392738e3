import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { BaseModel } from '../../src/clara/base.ts'
import { declareBase, declareRole } from '../../src/clara/network.ts'
import { createRandom } from '../../src/data/random.ts'
import { float32, int64 } from '../../src/graph/dtype.ts'
import { addInput, addOutput, createGraph } from '../../src/graph/graph.ts'
import { decode } from '../../src/model/decoder.ts'
import { encodeGraph } from '../../src/ops/table.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'
import { tinyModel } from '../clara/tiny.ts'
import { families, randomBase } from './families.ts'
import { plainStates } from './plain-decoder.ts'

let runtime: Runtime
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
})
afterAll(() => runtime.close())

/** Rows after the layers and the final normalisation, through the graph. */
async function graphStates(
  base: BaseModel,
  rows: Float32Array,
  positions: number[],
  bias: Float32Array,
  layers: number,
) {
  const graph = createGraph('decoder')
  const declared = declareBase(graph, base.config, base.vocabulary, 128)
  const { decoder } = declareRole(declared, undefined)
  const [batch, length, width] = ['batch', 'length', base.config.hidden_size]
  const at = {
    batch,
    length,
    positions: addInput(graph, 'positions', 'int64', [batch, length]),
    attentionBias: addInput(graph, 'bias', 'float32', [batch, 1, 1, length, length]),
  }
  addOutput(graph, 'states', decode(decoder, addInput(graph, 'rows', 'float32', ['batch*length', width]), at, layers))
  const session = await runtime.open(encodeGraph(graph), base.weights)
  const count = positions.length
  const results = await session.run({
    rows: float32(rows, [count, width]),
    positions: int64(positions, [1, count]),
    bias: float32(bias, [1, 1, 1, count, count]),
  })
  await session.close()
  return Array.from(results['states']?.data ?? [], Number)
}

const largest = (a: number[], b: number[]) =>
  a.reduce((most, x, at) => Math.max(most, Math.abs(x - (b[at] ?? Number.NaN))), 0)

/** A bias under which a position sees those before it. */
const causalBias = (count: number) =>
  Float32Array.from({ length: count * count }, (_, at) => (at % count <= Math.floor(at / count) ? 0 : -1e9))

describe.each(Object.entries(families))('the decoder of %s', (_, config) => {
  const random = createRandom(2)
  const open = () => randomBase(config, { baseVocabulary: 8, vocabulary: 8 })
  const rowsFor = (count: number) => Float32Array.from({ length: count * 64 }, () => 0.5 * random.normal())

  test('is that of plain arithmetic, whole or trimmed, whatever a position may see', async () => {
    const base = await open()
    const positions = [0, 1, 2, 5, 6, 7, 9, 10]
    const rows = rowsFor(positions.length)
    for (const layers of [1, 3]) {
      for (const bias of [causalBias(8), new Float32Array(64)]) {
        const expected = plainStates(base, rows, positions, bias, layers)
        expect(largest(expected, await graphStates(base, rows, positions, bias, layers))).toBeLessThan(2e-4)
      }
    }
  })

  test('is so for long sequences', async () => {
    const base = await open()
    const rows = rowsFor(40)
    // the last position decides: 32 are short, 33 are long
    for (const last of [31, 32, 39]) {
      const positions = Array.from({ length: last + 1 }, (_, index) => index)
      const shown = rows.subarray(0, positions.length * 64)
      const seen = causalBias(positions.length)
      const expected = plainStates(base, shown, positions, seen)
      expect(largest(expected, await graphStates(base, shown, positions, seen, 3))).toBeLessThan(2e-4)
    }
  })
})

describe.each(['mistral-1', 'llama-3', 'qwen2-2', 'qwen3-4'] as const)('the decoder of %s', (architecture) => {
  const count = 5
  const random = createRandom(2)
  const causal = causalBias(count)
  const rowsFor = (base: BaseModel) =>
    Float32Array.from({ length: count * base.config.hidden_size }, () => 0.5 * random.normal())

  test('is that of plain arithmetic, whole or trimmed, whatever a position may see', async () => {
    const { base } = await tinyModel(runtime, { architecture })
    const rows = rowsFor(base)
    const positions = [0, 1, 5, 6, 90]
    for (const layers of [1, base.config.num_hidden_layers]) {
      for (const bias of [causal, new Float32Array(count * count)]) {
        const expected = plainStates(base, rows, positions, bias, layers)
        expect(expected).toHaveLength(count * base.config.hidden_size)
        expect(largest(expected, await graphStates(base, rows, positions, bias, layers))).toBeLessThan(2e-4)
      }
    }
  })

  test('knows places only by their distance', async () => {
    const { base } = await tinyModel(runtime, { architecture })
    const rows = rowsFor(base)
    const at = (start: number) => Array.from({ length: count }, (_, index) => start + index)
    const first = await graphStates(base, rows, at(0), causal, base.config.num_hidden_layers)
    expect(largest(first, await graphStates(base, rows, at(100), causal, base.config.num_hidden_layers))).toBeLessThan(
      2e-4,
    )
    expect(
      largest(first, await graphStates(base, rows, [0, 2, 4, 6, 8], causal, base.config.num_hidden_layers)),
    ).toBeGreaterThan(1e-2)
  })
})

import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { BaseModel } from '../../src/clara/base.ts'
import { declareBase, declareRole } from '../../src/clara/network.ts'
import { createRandom } from '../../src/data/random.ts'
import { float32, int64 } from '../../src/graph/dtype.ts'
import { addInput, addOutput, createGraph } from '../../src/graph/graph.ts'
import { decode } from '../../src/model/decoder.ts'
import { inverseFrequencies } from '../../src/model/rotary.ts'
import { encodeGraph } from '../../src/ops/table.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'
import { tinyModel } from '../clara/tiny.ts'

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

/** The same in plain float64 arithmetic, one position and one head after the other. */
function plainStates(
  base: BaseModel,
  input: Float32Array,
  positions: number[],
  bias: Float32Array,
  layers: number,
): number[] {
  const { config } = base
  const { hidden_size: width, head_dim: size, num_attention_heads: heads, num_key_value_heads: groups } = config
  const weight = (name: string) => base.weights.get(name)?.data as Float32Array
  const linear = (row: number[], name: string) => {
    const matrix = weight(name)
    return Array.from({ length: matrix.length / row.length }, (_, out) =>
      row.reduce((sum, x, index) => sum + x * (matrix[out * row.length + index] ?? 0), 0),
    )
  }
  const norm = (row: number[], name: string) => {
    const scale = 1 / Math.sqrt(row.reduce((sum, x) => sum + x * x, 0) / row.length + config.rms_norm_eps)
    return row.map((x, index) => x * scale * (weight(name)[index] ?? 0))
  }
  const frequencies = inverseFrequencies(config)
  const turn = (vector: number[], position: number) =>
    vector.map((x, index) => {
      const half = size / 2
      const angle = position * (frequencies[index % half] ?? 0)
      const other = index < half ? -(vector[index + half] ?? 0) : (vector[index - half] ?? 0)
      return x * Math.cos(angle) + other * Math.sin(angle)
    })
  const head = (row: number[], index: number) => row.slice(index * size, (index + 1) * size)
  let states = positions.map((_, row) => Array.from(input.subarray(row * width, (row + 1) * width)))
  for (let layer = 0; layer < layers; layer++) {
    const name = (part: string) => `model.layers.${layer}.${part}.weight`
    const normed = states.map((row) => norm(row, name('input_layernorm')))
    const [queries, keys, values] = (['q', 'k', 'v'] as const).map((part) =>
      normed.map((row) => linear(row, name(`self_attn.${part}_proj`))),
    )
    states = states.map((state, row) => {
      const context = Array.from({ length: heads }, (_, index) => {
        const group = Math.floor(index / (heads / groups))
        const query = turn(head(queries?.[row] ?? [], index), positions[row] ?? 0)
        const scores = positions.map((position, key) => {
          const turned = turn(head(keys?.[key] ?? [], group), position)
          const product = query.reduce((sum, x, at) => sum + x * (turned[at] ?? 0), 0)
          return product / Math.sqrt(size) + (bias[row * positions.length + key] ?? 0)
        })
        const exponentials = scores.map((score) => Math.exp(score - Math.max(...scores)))
        const total = exponentials.reduce((sum, x) => sum + x, 0)
        return Array.from({ length: size }, (_, at) =>
          exponentials.reduce((sum, x, key) => sum + (x / total) * (values?.[key]?.[group * size + at] ?? 0), 0),
        )
      }).flat()
      const attended = linear(context, name('self_attn.o_proj')).map((x, at) => x + (state[at] ?? 0))
      const fed = norm(attended, name('post_attention_layernorm'))
      const up = linear(fed, name('mlp.up_proj'))
      const gated = linear(fed, name('mlp.gate_proj')).map((x, at) => (x / (1 + Math.exp(-x))) * (up[at] ?? 0))
      return linear(gated, name('mlp.down_proj')).map((x, at) => x + (attended[at] ?? 0))
    })
  }
  return states.flatMap((row) => norm(row, 'model.norm.weight'))
}

describe.each(['mistral-1', 'llama-3'] as const)('the decoder of %s', (architecture) => {
  const count = 5
  const random = createRandom(2)
  const causal = Float32Array.from({ length: count * count }, (_, at) =>
    at % count <= Math.floor(at / count) ? 0 : -1e9,
  )
  const rowsFor = (base: BaseModel) =>
    Float32Array.from({ length: count * base.config.hidden_size }, () => 0.5 * random.normal())
  const largest = (a: number[], b: number[]) =>
    a.reduce((most, x, at) => Math.max(most, Math.abs(x - (b[at] ?? Number.NaN))), 0)

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
    const first = await graphStates(base, rows, at(0), causal, 3)
    expect(largest(first, await graphStates(base, rows, at(100), causal, 3))).toBeLessThan(2e-4)
    expect(largest(first, await graphStates(base, rows, [0, 2, 4, 6, 8], causal, 3))).toBeGreaterThan(1e-2)
  })
})

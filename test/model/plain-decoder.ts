import type { BaseModel } from '../../src/clara/base.ts'
import { inverseFrequencies } from '../../src/model/rotary.ts'

/**
 * Rows after the layers and the final normalisation in plain float64 arithmetic, one position and one head after the other.
 * Reads a family's peculiarities off its configuration and the names of its weights.
 */
export function plainStates(
  base: BaseModel,
  input: Float32Array,
  positions: readonly number[],
  bias: Float32Array,
  layers: number = base.config.num_hidden_layers,
): number[] {
  const { config } = base
  const { hidden_size: width, head_dim: size, num_attention_heads: heads, num_key_value_heads: groups } = config
  const values = (name: string) => base.weights.get(name)?.data as Float32Array | undefined
  const linear = (row: readonly number[], module: string, from = 0, to?: number) => {
    const [matrix, added] = [values(`${module}.weight`) ?? new Float32Array(), values(`${module}.bias`)]
    return Array.from({ length: (to ?? matrix.length / row.length) - from }, (_, index) => {
      const out = from + index
      return row.reduce((sum, x, at) => sum + x * (matrix[out * row.length + at] ?? 0), added?.[out] ?? 0)
    })
  }
  const norm = (row: readonly number[], name: string) => {
    const weight = values(name)
    if (!weight) return [...row]
    const scale = 1 / Math.sqrt(row.reduce((sum, x) => sum + x * x, 0) / row.length + config.rms_norm_eps)
    return row.map((x, index) => x * scale * (weight[index] ?? 0))
  }
  const length = Math.max(...positions) + 1
  const frequencies = inverseFrequencies(config, length)
  const stretch = config.rope_scaling?.rope_type === 'longrope' ? config.rope_scaling.attention_factor : 1
  const half = frequencies.length
  const turn = (vector: readonly number[], position: number) =>
    vector.map((x, index) => {
      if (index >= 2 * half) return x
      const angle = position * (frequencies[index % half] ?? 0)
      const other = index < half ? -(vector[index + half] ?? 0) : (vector[index - half] ?? 0)
      return stretch * (x * Math.cos(angle) + other * Math.sin(angle))
    })
  const head = (row: readonly number[], index: number) => row.slice(index * size, (index + 1) * size)
  const [queryWidth, keyWidth, inner] = [heads * size, groups * size, config.intermediate_size]

  let states = positions.map((_, row) => Array.from(input.subarray(row * width, (row + 1) * width)))
  for (let layer = 0; layer < layers; layer++) {
    const name = (part: string) => `model.layers.${layer}.${part}`
    const fused = values(name('self_attn.qkv_proj.weight')) !== undefined
    const window = config.layer_types[layer] === 'sliding_attention' ? (config.sliding_window ?? 0) : length
    const normed = states.map((row) => norm(row, name('input_layernorm.weight')))
    const part = (letter: string, from: number, count: number) =>
      normed.map((row) =>
        fused
          ? linear(row, name('self_attn.qkv_proj'), from, from + count)
          : linear(row, name(`self_attn.${letter}_proj`)),
      )
    const queries = part('q', 0, queryWidth)
    const keys = part('k', queryWidth, keyWidth)
    const attended = part('v', queryWidth + keyWidth, keyWidth)
    states = states.map((state, row) => {
      const context = Array.from({ length: heads }, (_, index) => {
        const group = Math.floor(index / (heads / groups))
        const place = positions[row] ?? 0
        const query = turn(norm(head(queries[row] ?? [], index), name('self_attn.q_norm.weight')), place)
        const scores = positions.map((position, key) => {
          if (Math.abs(place - position) >= window) return Number.NEGATIVE_INFINITY
          const turned = turn(norm(head(keys[key] ?? [], group), name('self_attn.k_norm.weight')), position)
          const product = query.reduce((sum, x, at) => sum + x * (turned[at] ?? 0), 0)
          return product / Math.sqrt(size) + (bias[row * positions.length + key] ?? 0)
        })
        const exponentials = scores.map((score) => Math.exp(score - Math.max(...scores)))
        const total = exponentials.reduce((sum, x) => sum + x, 0)
        return Array.from({ length: size }, (_, at) =>
          exponentials.reduce((sum, x, key) => sum + (x / total) * (attended[key]?.[group * size + at] ?? 0), 0),
        )
      }).flat()
      const after = linear(context, name('self_attn.o_proj')).map((x, at) => x + (state[at] ?? 0))
      const fed = norm(after, name('post_attention_layernorm.weight'))
      const gate = fused ? linear(fed, name('mlp.gate_up_proj'), 0, inner) : linear(fed, name('mlp.gate_proj'))
      const up = fused ? linear(fed, name('mlp.gate_up_proj'), inner, 2 * inner) : linear(fed, name('mlp.up_proj'))
      const gated = gate.map((x, at) => (x / (1 + Math.exp(-x))) * (up[at] ?? 0))
      return linear(gated, name('mlp.down_proj')).map((x, at) => x + (after[at] ?? 0))
    })
  }
  return states.flatMap((row) => norm(row, 'model.norm.weight'))
}

import { ClaraError } from '../errors.ts'
import { float32, type HostTensor } from '../graph/dtype.ts'
import { addInput, addOutput, addWeight, createGraph, type Tensor } from '../graph/graph.ts'
import { add, cast, divide, multiply, round, scalar } from '../ops/elementwise.ts'
import { reshape } from '../ops/layout.ts'
import { gemm } from '../ops/matmul.ts'
import { QUANTISATION_BLOCK, symmetricScales } from '../ops/quantised.ts'
import { encodeGraph } from '../ops/table.ts'
import type { Runtime } from '../runtime/runtime.ts'

/** Names of a quantised weight's parts. */
export const int8Name = (weight: string): string => `${weight}.int8`
export const scalesName = (weight: string): string => `${weight}.scales`

/** A low-rank update to add to a weight: W + factor · B A. */
export interface LowRankUpdate {
  readonly a: HostTensor
  readonly b: HostTensor
  readonly factor: number
}

/**
 * Rounds weights [out, in] to 8-bit integers around 128 in blocks of 32 inputs: q = round(w / s) + 128 with
 * s = max |w| / 127 over the block. Low-rank updates are added first.
 *
 * Runs on the runtime, a few weights at a time. Returns the parts under {@link int8Name} and {@link scalesName}.
 */
export async function quantiseWeights(
  runtime: Runtime,
  weights: ReadonlyMap<string, HostTensor>,
  updates: ReadonlyMap<string, LowRankUpdate> = new Map(),
): Promise<Map<string, HostTensor>> {
  const parts = new Map<string, HostTensor>()
  const names = [...weights.keys()]
  for (let start = 0; start < names.length; start += 35) {
    const group = names.slice(start, start + 35)
    for (const [name, part] of await quantiseGroup(runtime, group, weights, updates)) parts.set(name, part)
  }
  return parts
}

async function quantiseGroup(
  runtime: Runtime,
  names: readonly string[],
  weights: ReadonlyMap<string, HostTensor>,
  updates: ReadonlyMap<string, LowRankUpdate>,
): Promise<Map<string, HostTensor>> {
  const graph = createGraph('quantise')
  const feeds: Record<string, HostTensor> = { one: float32([1], []) }
  // a factor that is only known at run time keeps ONNX Runtime from folding everything while it loads
  const one = addInput(graph, 'one', 'float32', [])
  for (const name of names) {
    const dims = weights.get(name)?.dims ?? []
    const [out, input] = [dims[0] ?? 0, dims[1] ?? 0]
    if (dims.length !== 2 || input % QUANTISATION_BLOCK !== 0) {
      throw new ClaraError(`The weight '${name}' cannot be quantised to 8 bits.`, {
        expected: `a matrix whose inputs are a multiple of ${QUANTISATION_BLOCK}`,
        received: `[${dims.join(', ')}]`,
        hint: "Load the model with weights 'fp32'.",
      })
    }
    let weight: Tensor = multiply(addWeight(graph, name, 'float32', [out, input]), one)
    const update = updates.get(name)
    if (update) {
      const a = addInput(graph, `${name}.a`, 'float32', update.a.dims)
      const b = addInput(graph, `${name}.b`, 'float32', update.b.dims)
      feeds[`${name}.a`] = update.a
      feeds[`${name}.b`] = update.b
      weight = gemm(b, a, weight, { alpha: update.factor })
    }
    const blocks = reshape(weight, [out, input / QUANTISATION_BLOCK, QUANTISATION_BLOCK])
    const scales = symmetricScales(blocks, 2, true)
    const rounded = add(round(divide(blocks, scales)), scalar(blocks, 128))
    addOutput(graph, int8Name(name), cast(rounded, 'uint8'))
    addOutput(graph, scalesName(name), reshape(scales, [out, input / QUANTISATION_BLOCK]))
  }
  const session = await runtime.open(encodeGraph(graph), weights)
  const results = await session.run(feeds)
  await session.close()
  return new Map(Object.entries(results))
}

/** Tensors below each other along their first axis. */
export function joinRows(parts: readonly HostTensor[]): HostTensor {
  const [first] = parts
  if (!first) throw new RangeError('There is nothing to join.')
  const count = parts.reduce((sum, { data }) => sum + data.length, 0)
  const joined = first.dtype === 'uint8' ? new Uint8Array(count) : new Float32Array(count)
  let offset = 0
  for (const { data } of parts) {
    joined.set(data as typeof joined, offset)
    offset += data.length
  }
  const rows = parts.reduce((sum, { dims }) => sum + (dims[0] ?? 0), 0)
  return { dtype: first.dtype, dims: [rows, ...first.dims.slice(1)], data: joined }
}

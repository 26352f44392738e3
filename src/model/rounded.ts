import { addOutput, type Tensor } from '../graph/graph.ts'
import { cast, divide, round } from '../ops/elementwise.ts'
import { reshape, transpose } from '../ops/layout.ts'
import { symmetricScales } from '../ops/quantised.ts'

/**
 * Rounds a linear layer's weight to int8 with one scale an output, q = round(w / s), and gives it as `linearInt8` takes it.
 * @param weight [out, in]
 * @param values Name of the output int8 [in, out].
 * @param scales Name of the output float32 [out].
 */
export function addRounded(weight: Tensor, values: string, scales: string): void {
  const factors = symmetricScales(weight, 1, true)
  addOutput(weight.graph, values, cast(transpose(round(divide(weight, factors)), [1, 0]), 'int8'))
  addOutput(weight.graph, scales, reshape(factors, [-1]))
}

import { type Check, type CheckReport, check, type Engine, randomTensor } from '../../../src/autodiff/check.ts'
import { type HostTensor, int64 } from '../../../src/graph/dtype.ts'
import type { Shape } from '../../../src/graph/shape.ts'

/** One check of one operator; the table of all cases is what tells whether an operator is tested. */
export interface OperatorCase {
  readonly operator: string
  readonly title: string
  readonly run: (engine: Engine) => Promise<CheckReport>
}

export function operatorCase<Name extends string>(operator: string, title: string, spec: Check<Name>): OperatorCase {
  return { operator, title, run: (engine) => check(engine, spec) }
}

let seed = 1

/** Random values in [low, high), with a symbolic shape where one is given. */
export const values = (dims: readonly number[], low = -1, high = 1, shape: Shape = dims) => ({
  value: randomTensor(dims, seed++, low, high),
  shape,
})

/** Numbers that are further from zero and from each other than any step: {@link values} for functions with kinks. */
export function spread(dims: readonly number[], shape: Shape = dims): { value: HostTensor; shape: Shape } {
  const tensor = randomTensor(dims, seed++)
  const order = [...tensor.data.keys()].sort((a, b) => Number(tensor.data[a]) - Number(tensor.data[b]))
  const half = order.length / 2 - 0.5
  order.forEach((place, rank) => {
    tensor.data[place] = (rank - half + 0.75) * 0.4
  })
  return { value: tensor, shape }
}

export const indices = (numbers: readonly number[], dims: readonly number[], shape: Shape = dims) => ({
  value: int64(numbers, dims),
  shape,
})

export const booleans = (bits: readonly number[], dims: readonly number[]) => ({
  value: { dtype: 'bool', dims, data: Uint8Array.from(bits) } as const,
})

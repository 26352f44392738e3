import { customGradient } from '../../../src/ops/custom.ts'
import { multiply, scale } from '../../../src/ops/elementwise.ts'
import { type OperatorCase, operatorCase, values } from './case.ts'

export const customCases: readonly OperatorCase[] = [
  operatorCase('CustomGradient', 'a square with its own gradient given by hand, and nothing from the value', {
    inputs: { x: values([2, 3], -1, 1, ['rows', 3]) },
    build: ({ x }) => customGradient(multiply(x, x), x, (gradient) => multiply(gradient, scale(x, 2))),
    reference: ({ x }) => x.map((value) => value * value),
  }),
]

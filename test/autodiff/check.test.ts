import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { type Check, check, randomTensor } from '../../src/autodiff/check.ts'
import { float32 } from '../../src/graph/dtype.ts'
import type { Tensor } from '../../src/graph/graph.ts'
import { exp, multiply, scale, sigmoid, stopGradient } from '../../src/ops/elementwise.ts'
import { applyOne, at, type GradientRule, type Operator } from '../../src/ops/operator.ts'
import { reduceSum } from '../../src/ops/reduce.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'

let runtime: Runtime
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
})
afterAll(() => runtime.close())

type None = Record<string, never>

/** softplus(x) = ln(1 + e^x): an operator that the table does not list, defined where it is used. */
const softplusOperator: Operator<None> = {
  name: 'Softplus',
  infer: ([x]) => [at([x], 0) as Tensor],
  gradient: ({ inputs, outputGradients }) => [multiply(at(outputGradients, 0), sigmoid(at(inputs, 0)))],
}
const softplus = (x: Tensor): Tensor => applyOne(softplusOperator, [x], {})

/** The same function with another gradient rule. */
const withRule = (gradient: GradientRule<None>) => (x: Tensor) => applyOne({ ...softplusOperator, gradient }, [x], {})

const spec = (build: (x: Tensor) => Tensor): Check<'x'> => ({
  inputs: { x: { value: randomTensor([2, 3], 11, -2, 2), shape: ['rows', 3] } },
  build: ({ x }) => build(x),
  reference: ({ x }) => x.map((value) => Math.log1p(Math.exp(value))),
})

describe('a new operator', () => {
  test('is one record, and is checked like any other', async () => {
    const report = await check(runtime, spec(softplus))
    expect([...report.operators]).toEqual(['Softplus'])
    expect(report.derivatives.map(({ input }) => input)).toEqual(['x', 'x'])
  })

  test('the error of the finite difference falls as the square of the step', async () => {
    const [one] = (await check(runtime, { ...spec(softplus), step: 1 / 2 })).derivatives
    expect((one?.coarseError ?? 0) / (one?.fineError ?? 1)).toBeGreaterThan(3.5)
    expect((one?.coarseError ?? 0) / (one?.fineError ?? 1)).toBeLessThan(4.5)
  })
})

describe('the checker catches', () => {
  const wrong: [string, GradientRule<None>][] = [
    [
      'a rule for another function',
      ({ inputs, outputGradients }) => [multiply(at(outputGradients, 0), exp(at(inputs, 0)))],
    ],
    [
      'a wrong sign',
      ({ inputs, outputGradients }) => [multiply(at(outputGradients, 0), scale(sigmoid(at(inputs, 0)), -1))],
    ],
    [
      'one part in a thousand',
      ({ inputs, outputGradients }) => [multiply(at(outputGradients, 0), scale(sigmoid(at(inputs, 0)), 1.001))],
    ],
    ['a rule that forgets what flows in', ({ inputs }) => [sigmoid(at(inputs, 0))]],
  ]
  test.each(wrong)('%s', async (_title, rule) => {
    await expect(check(runtime, spec(withRule(rule)))).rejects.toThrow(/The gradient of 'x' is wrong/)
  })

  test('a gradient lost on one of two paths', async () => {
    const build = (x: Tensor) => multiply(softplus(x), stopGradient(x))
    const { reference: _, ...rest } = spec(build)
    await expect(check(runtime, rest)).rejects.toThrow(/The gradient of 'x' is wrong/)
  })

  test('a rule whose gradient has another shape', async () => {
    const rule: GradientRule<None> = ({ outputGradients }) => [reduceSum(at(outputGradients, 0), [1])]
    await expect(check(runtime, spec(withRule(rule)))).rejects.toThrow(
      /rule of Softplus returned shape \[rows\]. Expected for operand 0, 'x', its shape \[rows, 3\]/,
    )
  })

  test('wrong values', async () => {
    const reference = () => [0, 1, 2, 3, 4, 5]
    await expect(check(runtime, { ...spec(softplus), reference })).rejects.toThrow(/Value 0 of the result is wrong/)
    await expect(check(runtime, { ...spec(softplus), reference: () => [1] })).rejects.toThrow(
      /has 6 values. Expected 1/,
    )
  })

  test('a shape rule that promises another shape', async () => {
    const liar: Operator<None> = { ...softplusOperator, infer: () => [{ dtype: 'float32', shape: ['rows', 'rows'] }] }
    const { reference: _, ...rest } = spec((x) => applyOne(liar, [x], {}))
    await expect(check(runtime, rest)).rejects.toThrow(/The result came out as \[2, 3\]. Expected \[2, 2\]/)
  })

  test('NaN', async () => {
    const nothing = spec(softplus)
    const x = { value: float32([Number.NaN, 1, 1, 1, 1, 1], [2, 3]) }
    await expect(check(runtime, { ...nothing, inputs: { x } })).rejects.toThrow(/is wrong/)
  })

  test('a check that cannot fail', async () => {
    const { reference: _, ...rest } = spec((x) => multiply(scale(x, 0), x))
    await expect(check(runtime, rest)).rejects.toThrow(/sees nothing/)
  })
})

import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { operators } from '../../src/ops/table.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'
import { attentionCases } from './cases/attention.ts'
import type { OperatorCase } from './cases/case.ts'
import { customCases } from './cases/custom.ts'
import { elementwiseCases } from './cases/elementwise.ts'
import { indexingCases } from './cases/indexing.ts'
import { layoutCases } from './cases/layout.ts'
import { matmulCases } from './cases/matmul.ts'
import { normaliseCases } from './cases/normalise.ts'
import { quantisedCases } from './cases/quantised.ts'
import { reduceCases } from './cases/reduce.ts'

const families: Readonly<Record<string, readonly OperatorCase[]>> = {
  elementwise: elementwiseCases,
  matmul: matmulCases,
  reduce: reduceCases,
  layout: layoutCases,
  indexing: indexingCases,
  normalise: normaliseCases,
  quantised: quantisedCases,
  attention: attentionCases,
  custom: customCases,
}

let runtime: Runtime
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
})
afterAll(() => runtime.close())

/** Operators whose values were compared, and those whose gradient was. */
const covered = { values: new Set<string>(), gradients: new Set<string>() }

for (const [family, cases] of Object.entries(families)) {
  describe(family, () => {
    for (const { operator, title, run } of cases) {
      test(`${operator}: ${title}`, async () => {
        const report = await run(runtime)
        expect([...report.operators]).toContain(operator)
        covered.values.add(operator)
        if (report.derivatives.length > 0) covered.gradients.add(operator)
      })
    }
  })
}

test('every operator of the table was checked, and every gradient rule by finite differences', () => {
  const all = Object.values(operators).map(({ name, gradient }) => ({ name, rule: !('notDifferentiable' in gradient) }))
  expect(all.filter(({ name }) => !covered.values.has(name)).map(({ name }) => name)).toEqual([])
  expect(all.filter(({ name, rule }) => rule && !covered.gradients.has(name)).map(({ name }) => name)).toEqual([])
})

test('the table lists each operator under its own name', () => {
  for (const [key, { name }] of Object.entries(operators)) expect(name).toBe(key)
})

import { describe, expect, test } from 'vitest'
import { createReport, failures, json, relativeError, table } from '../../scripts/parity/report.ts'

describe('the error measure', () => {
  test('is the largest error over the largest expected value', () => {
    const expected = { dims: [2, 2], data: [1, -4, 0, 2] }
    expect(relativeError({ dims: [2, 2], data: [1, -4.02, 0.01, 2] }, expected)).toBeCloseTo(0.005, 10)
    expect(relativeError(expected, expected)).toBe(0)
    expect(relativeError(3, 4)).toBe(0.25)
  })

  test('of numbers that are missing or not finite is infinite', () => {
    const expected = { dims: [2], data: [1, 2] }
    expect(relativeError({ dims: [2], data: [1, Number.NaN] }, expected)).toBe(Number.POSITIVE_INFINITY)
    expect(relativeError({ dims: [2], data: [1] }, expected)).toBe(Number.POSITIVE_INFINITY)
    expect(relativeError(Number.POSITIVE_INFINITY, 1)).toBe(Number.POSITIVE_INFINITY)
    expect(relativeError(1e-9, 0)).toBe(Number.POSITIVE_INFINITY)
  })
})

describe('a report', () => {
  const filled = () => {
    const report = createReport()
    report.close('near', 1.00001, 1, 1e-4)
    report.close('far', 1.001, 1, 1e-4)
    report.close('reshaped', { dims: [2, 1], data: [1, 2] }, { dims: [1, 2], data: [1, 2] }, 1e-4)
    report.close('absent', undefined, 1, 1e-4)
    report.exact('same', [[1, 2], ['a']], [[1, 2], ['a']])
    report.exact('shorter', [[1], ['b']], [[1, 2], ['a']])
    return { folder: 'x', rows: report.rows, notCovered: ['later'] }
  }

  test('passes what is within the tolerance, and counts what differs in exact quantities', () => {
    const { rows } = filled()
    expect(rows.filter(({ ok }) => ok).map(({ quantity }) => quantity)).toEqual(['near', 'same'])
    expect(rows.find(({ quantity }) => quantity === 'shorter')?.error).toBe(2)
    expect(failures(filled())).toBe(4)
  })

  test('as a table ends with the counts', () => {
    const lines = table(filled()).split('\n')
    expect(lines.slice(-2)).toEqual(['1 not covered', '2 passed, 4 failed'])
    expect(lines.find((line) => line.startsWith('reshaped'))).toMatch(
      /Infinity.*FAILED: shape \[2,1\] instead of \[1,2\]/,
    )
    expect(lines.find((line) => line.startsWith('later'))).toMatch(/not covered$/)
    expect(table({ ...filled(), notCovered: [] })).toMatch(/\n\n2 passed, 4 failed$/)
  })

  test('as JSON is one object', () => {
    const parsed = JSON.parse(json(filled()))
    expect(parsed).toMatchObject({ folder: 'x', passed: 2, failed: 4, notCovered: ['later'] })
    expect(parsed.rows[0]).toMatchObject({ quantity: 'near', tolerance: 1e-4, ok: true })
  })
})

import { elementCount } from '../../src/graph/dtype.ts'

/** Largest errors that count as agreement (see test/fixtures/parity/README.md). */
export const tolerances = {
  exact: 0,
  memory: 2e-4,
  logits: 2e-4,
  scores: 2e-4,
  loss: 1e-5,
  gradient: 2e-3,
  gradientNorm: 1e-4,
  curve: 1e-4,
} as const

/** One compared quantity. */
export interface Row {
  readonly quantity: string
  /** Largest error over the largest value; for exact quantities the number of differing elements; Infinity: incomparable. */
  readonly error: number
  /** 0: exact. */
  readonly tolerance: number
  readonly ok: boolean
  /** Why nothing could be compared. */
  readonly note?: string
}

export interface Report {
  readonly rows: readonly Row[]
  /** Compares numbers; a value that is missing, not finite or of another shape fails. */
  close(quantity: string, actual: Numbers | undefined, expected: Numbers, tolerance: number): void
  /** Compares ids, texts and the like, element by element. */
  exact(quantity: string, actual: unknown, expected: unknown): void
  fail(quantity: string, note: string): void
}

/** Values with their shape; a plain number is a scalar. */
export type Numbers = number | { readonly dims: readonly number[]; readonly data: ArrayLike<number | bigint> }

export function createReport(): Report {
  const rows: Row[] = []
  const fail = (quantity: string, note: string, tolerance: number = tolerances.exact) =>
    void rows.push({ quantity, error: Number.POSITIVE_INFINITY, tolerance, ok: false, note })
  return {
    rows,
    fail,
    close(quantity, actual, expected, tolerance) {
      if (actual === undefined) return fail(quantity, 'it was not computed', tolerance)
      const [ours, theirs] = [dimsOf(actual), dimsOf(expected)]
      if (ours.join() !== theirs.join()) return fail(quantity, `shape [${ours}] instead of [${theirs}]`, tolerance)
      const error = relativeError(actual, expected)
      rows.push({ quantity, error, tolerance, ok: error <= tolerance })
    },
    exact(quantity, actual, expected) {
      const error = differences(actual, expected)
      rows.push({ quantity, error, tolerance: tolerances.exact, ok: error === 0 })
    },
  }
}

const dimsOf = (value: Numbers): readonly number[] => (typeof value === 'number' ? [] : value.dims)
const valuesOf = (value: Numbers): ArrayLike<number | bigint> => (typeof value === 'number' ? [value] : value.data)

/** Largest error over the largest expected value. */
export function relativeError(actual: Numbers, expected: Numbers): number {
  const [ours, theirs] = [valuesOf(actual), valuesOf(expected)]
  let [error, largest] = [0, 0]
  for (let index = 0; index < elementCount(dimsOf(expected)); index++) {
    const difference = Math.abs(Number(ours[index]) - Number(theirs[index]))
    // a comparison with NaN is false, so it would pass unseen
    if (!Number.isFinite(difference)) return Number.POSITIVE_INFINITY
    error = Math.max(error, difference)
    largest = Math.max(largest, Math.abs(Number(theirs[index])))
  }
  return error === 0 ? 0 : error / largest
}

/** How many leaves of two nested lists differ. */
function differences(actual: unknown, expected: unknown): number {
  if (Array.isArray(actual) && Array.isArray(expected)) {
    const length = Math.max(actual.length, expected.length)
    return Array.from({ length }, (_, index) => differences(actual[index], expected[index])).reduce((a, b) => a + b, 0)
  }
  return actual === expected ? 0 : 1
}

/** The result of a folder. */
export interface Result {
  readonly folder: string
  readonly rows: readonly Row[]
  /** Quantities of the folder that nothing was compared with. */
  readonly notCovered: readonly string[]
}

export const failures = ({ rows }: Result): number => rows.filter(({ ok }) => !ok).length

/** A row per quantity, then the quantities that nothing was compared with; the last line counts the rows. */
export function table(result: Result): string {
  const { rows, notCovered } = result
  const cells = rows.map(({ quantity, error, tolerance, ok, note }) => [
    quantity,
    tolerance === 0 ? String(error) : error.toExponential(1),
    tolerance === 0 ? 'exact' : tolerance.toExponential(0),
    ok ? 'ok' : `FAILED${note === undefined ? '' : `: ${note}`}`,
  ])
  const all = [
    ['quantity', 'error', 'tolerance', 'ok'],
    ...cells,
    ...notCovered.map((name) => [name, '', '', 'not covered']),
  ]
  const widths = [0, 1, 2].map((column) => Math.max(...all.map((row) => row[column]?.length ?? 0)))
  const lines = all.map((row) => row.map((cell, column) => cell.padEnd(widths[column] ?? 0)).join(' | '))
  const [passed, failed] = [rows.length - failures(result), failures(result)]
  const uncovered = notCovered.length > 0 ? [`${notCovered.length} not covered`] : []
  return [...lines, '', ...uncovered, `${passed} passed, ${failed} failed`].join('\n')
}

/** The same as one JSON object; an error of Infinity becomes null. */
export function json(result: Result): string {
  const failed = failures(result)
  const { folder, rows, notCovered } = result
  return JSON.stringify({ folder, passed: rows.length - failed, failed, notCovered, rows }, undefined, 2)
}

import { ClaraError } from '../errors.ts'
import type { Condition, RowFilter, Scalar, StoreRow } from './store.ts'
import { isPlainObject } from './validation.ts'

/* The filter language: what a driver's own query must reproduce, and a plain evaluation that says what it means. */

/** Strings of more bytes of UTF-8 meet no range condition: what is compared can be kept in an ordered form. */
export const LONGEST_ORDERED = 1024
/** Deeper nesting is a mistake or an attack. */
const DEEPEST = 32
/** Values and ids in one filter, and filters joined by one `and` or `or`: beyond these, databases' parsers give up. */
const MOST_PARTS = 100_000
const MOST_JOINED = 256
const ranges = ['gt', 'gte', 'lt', 'lte'] as const
/** A comparison that a range condition asks for. */
export type Range = (typeof ranges)[number]

/**
 * Whether a filter is well formed; it may come from a file or a request.
 * @throws ClaraError that names the part which is not.
 */
export function checkFilter(filter: RowFilter | undefined): void {
  if (filter === undefined) return
  const parts = checkPart(filter, 'filter', 0)
  if (parts > MOST_PARTS) {
    throw new ClaraError('The filter is too large.', {
      expected: `at most ${MOST_PARTS} conditions, values and ids`,
      received: String(parts),
    })
  }
}

function checkPart(filter: unknown, path: string, depth: number): number {
  if (!isPlainObject(filter)) throw malformed(path, 'an object such as { metadata: { language: "en" } }', filter)
  if (depth > DEEPEST) throw malformed(path, `at most ${DEEPEST} levels`, filter)
  let parts = 1
  for (const [key, value] of Object.entries(filter)) {
    const place = `${path}.${key}`
    if (value === undefined) continue
    if (key === 'documentIds') parts += checkList(value, place, (id) => typeof id === 'string', 'a string')
    else if (key === 'metadata') parts += checkConditions(value, place)
    else if (key === 'not') parts += checkPart(value, place, depth + 1)
    else if (key === 'and' || key === 'or') {
      const joined = checkList(value, place, isPlainObject, 'a filter')
      if (joined > MOST_JOINED) throw malformed(place, `at most ${MOST_JOINED} filters`, joined)
      for (const [index, part] of (value as unknown[]).entries())
        parts += checkPart(part, `${place}[${index}]`, depth + 1)
    } else throw malformed(path, 'the keys documentIds, metadata, and, or, not', key)
  }
  return parts
}

function checkConditions(conditions: unknown, path: string): number {
  if (!isPlainObject(conditions)) throw malformed(path, 'an object of conditions by key', conditions)
  let parts = 0
  for (const [key, condition] of Object.entries(conditions)) {
    const place = `${path}[${JSON.stringify(key)}]`
    if (!isText(key)) throw malformed(path, 'keys of well-formed Unicode', key)
    parts++
    if (isScalar(condition)) continue
    if (!isPlainObject(condition)) throw malformed(place, 'a string, number, boolean, null, or conditions', condition)
    for (const [name, value] of Object.entries(condition)) {
      if (value === undefined) continue
      if (name === 'in') parts += checkList(value, `${place}.in`, isScalar, 'a string, number, boolean or null')
      else if (!ranges.some((range) => range === name)) throw malformed(place, 'in, gt, gte, lt, lte', name)
      else if (!(isScalar(value) && (typeof value === 'number' || typeof value === 'string'))) {
        throw malformed(`${place}.${name}`, 'a number or a string', value)
      } else if (!isOrdered(value)) {
        throw malformed(`${place}.${name}`, `at most ${LONGEST_ORDERED} bytes`, value)
      }
    }
  }
  return parts
}

function checkList(list: unknown, path: string, fits: (item: unknown) => boolean, expected: string): number {
  if (!Array.isArray(list)) throw malformed(path, `a list, each item ${expected}`, list)
  const wrong = list.findIndex((item) => !fits(item))
  if (wrong >= 0) throw malformed(`${path}[${wrong}]`, expected, list[wrong])
  return list.length
}

/** Whether range conditions look at the value. */
export function isOrdered(value: unknown): value is number | string {
  return typeof value === 'number' || (typeof value === 'string' && Buffer.byteLength(value) <= LONGEST_ORDERED)
}

function isScalar(value: unknown): value is Scalar {
  if (typeof value === 'number') return Number.isFinite(value)
  return value === null || typeof value === 'boolean' || (typeof value === 'string' && isText(value))
}

function isText(value: string): boolean {
  return !/\p{Surrogate}/u.test(value)
}

function malformed(path: string, expected: string, received: unknown): ClaraError {
  const shown = JSON.stringify(received) ?? typeof received
  return new ClaraError(`The filter is malformed at ${path}.`, { expected, received: shown.slice(0, 200) })
}

/** The conditions of `metadata`, one by one: a bare value is the condition that it is one of itself. */
export function conditionsOf(filter: RowFilter): { readonly key: string; readonly condition: Condition }[] {
  return Object.entries(filter.metadata ?? {}).map(([key, value]) => ({
    key,
    condition: typeof value === 'object' && value !== null ? value : { in: [value] },
  }))
}

/** The comparisons that a condition asks for. */
export function rangesOf(condition: Condition): { readonly range: Range; readonly bound: number | string }[] {
  return ranges.flatMap((range) => {
    const bound = condition[range]
    return bound === undefined ? [] : [{ range, bound }]
  })
}

/** Whether a row passes the filter: the meaning that a driver's own query must reproduce. */
export function matchesFilter(row: Pick<StoreRow, 'documentId' | 'metadata'>, filter: RowFilter | undefined): boolean {
  if (filter === undefined) return true
  if (filter.documentIds !== undefined && !filter.documentIds.includes(row.documentId)) return false
  if (filter.not !== undefined && matchesFilter(row, filter.not)) return false
  if (filter.and?.some((part) => !matchesFilter(row, part))) return false
  if (filter.or !== undefined && !filter.or.some((part) => matchesFilter(row, part))) return false
  return conditionsOf(filter).every(
    ({ key, condition }) => Object.hasOwn(row.metadata, key) && meets(row.metadata[key], condition),
  )
}

function meets(value: unknown, condition: Condition): boolean {
  if (typeof value === 'object' && value !== null) return false
  if (condition.in !== undefined && !condition.in.some((allowed) => allowed === value)) return false
  return rangesOf(condition).every(({ range, bound }) => {
    const order = compare(value, bound)
    if (order === undefined) return false
    return range === 'gt' ? order > 0 : range === 'gte' ? order >= 0 : range === 'lt' ? order < 0 : order <= 0
  })
}

function compare(value: unknown, bound: number | string): number | undefined {
  if (typeof value === 'number' && typeof bound === 'number') return Math.sign(value - bound)
  if (typeof value !== 'string' || typeof bound !== 'string' || !isOrdered(value)) return undefined
  // UTF-8 sorts as code points do; UTF-16 does not.
  return Buffer.compare(Buffer.from(value), Buffer.from(bound))
}

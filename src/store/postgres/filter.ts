import { digest } from '../codec.ts'
import { conditionsOf, LONGEST_ORDERED, type Range, rangesOf } from '../filter.ts'
import type { RowFilter, Scalar } from '../store.ts'
import { escaped } from './text.ts'

/** The values of a statement's $1, $2 and so on. */
export class Parameters {
  readonly values: unknown[] = []

  /** Adds a value; returns what stands for it in the statement. */
  add(value: unknown): string {
    this.values.push(value)
    return `$${this.values.length}`
  }
}

/** What stands for an id in indexes, which do not take long ones: 128 bits of its digest, as a UUID. */
export function keyOf(id: string): string {
  return digest(JSON.stringify(id))
}

const operators: Readonly<Record<Range, string>> = { gt: '>', gte: '>=', lt: '<', lte: '<=' }

/** The filter as a condition on table rows, true or false and never null; every value goes into the parameters. */
export function conditionOf(filter: RowFilter | undefined, parameters: Parameters): string {
  if (filter === undefined) return 'true'
  const parts = ['true']
  if (filter.documentIds !== undefined) {
    parts.push(`document_key = ANY(${parameters.add(filter.documentIds.map(keyOf))}::uuid[])`)
  }
  for (const { key, condition } of conditionsOf(filter)) {
    const name = `${parameters.add(escaped(key))}::text`
    const value = `(metadata -> ${name})`
    parts.push(`coalesce(jsonb_typeof(${value}) NOT IN ('object', 'array'), false)`)
    if (condition.in !== undefined) {
      parts.push(`coalesce(${value} = ANY(${parameters.add(condition.in.map(jsonOf))}::jsonb[]), false)`)
    }
    for (const { range, bound } of rangesOf(condition)) parts.push(within(name, range, bound, parameters))
  }
  for (const part of filter.and ?? []) parts.push(conditionOf(part, parameters))
  if (filter.or !== undefined) {
    parts.push(`(${['false', ...filter.or.map((part) => conditionOf(part, parameters))].join(' OR ')})`)
  }
  if (filter.not !== undefined) parts.push(`NOT ${conditionOf(filter.not, parameters)}`)
  return `(${parts.join(' AND ')})`
}

function jsonOf(value: Scalar): string {
  return JSON.stringify(typeof value === 'string' ? escaped(value) : value)
}

function within(name: string, range: Range, bound: number | string, parameters: Parameters): string {
  const kind = typeof bound
  const text = `(metadata ->> ${name})`
  // numeric compares the decimal digits, which order as the numbers do; "C" compares the bytes of UTF-8, which order as code points do
  const [value, limit] =
    typeof bound === 'number'
      ? [`${text}::numeric`, `${parameters.add(JSON.stringify(bound))}::numeric`]
      : [`${text} COLLATE "C"`, `${parameters.add(escaped(bound))}::text COLLATE "C"`]
  const fits = kind === 'string' ? ` AND octet_length(${text}) <= ${LONGEST_ORDERED}` : ''
  return `(CASE WHEN jsonb_typeof(metadata -> ${name}) = '${kind}'${fits} THEN ${value} ${operators[range]} ${limit} ELSE false END)`
}

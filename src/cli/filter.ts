import type { Condition, RowFilter, Scalar } from '../store/store.ts'
import { UsageError } from './arguments.ts'

const OPERATORS = { '=': 'is', '!=': 'not', '>=': 'gte', '<=': 'lte', '>': 'gt', '<': 'lt' } as const

/**
 * A filter from `--filter KEY=VALUE` (also `!=`, `<`, `<=`, `>`, `>=`), all of which must hold, and `--document ID`, one of which must. A value that is a
 * JSON number, boolean, null or string in quotes is that; any other is text.
 * @throws UsageError when one is none of these.
 */
export function parseFilter(conditions: readonly string[], documentIds: readonly string[]): RowFilter | undefined {
  const parts: RowFilter[] = conditions.map(parseCondition)
  if (documentIds.length > 0) parts.push({ documentIds })
  return parts.length === 0 ? undefined : parts.length === 1 ? parts[0] : { and: parts }
}

function parseCondition(text: string): RowFilter {
  const found = /^([^=<>!]+)(!=|>=|<=|=|>|<)(.*)$/s.exec(text)
  const [, key, operator, written] = found ?? []
  if (key === undefined || operator === undefined || written === undefined) {
    throw new UsageError(`The filter ${JSON.stringify(text)} is none.`, {
      expected: 'KEY=VALUE, or with !=, <, <=, > or >=, such as --filter "year>=2020"',
    })
  }
  const value = scalarOf(written.trim())
  const name = key.trim()
  const kind = OPERATORS[operator as keyof typeof OPERATORS]
  if (kind === 'is') return { metadata: { [name]: value } }
  if (kind === 'not') return { not: { metadata: { [name]: value } } }
  if (typeof value !== 'number' && typeof value !== 'string')
    throw new UsageError(`The filter ${JSON.stringify(text)} compares with ${String(value)}.`, {
      expected: 'a number or text',
    })
  const condition: Condition = { [kind]: value }
  return { metadata: { [name]: condition } }
}

function scalarOf(text: string): Scalar {
  if (!/^(-?\d|"|true$|false$|null$)/.test(text)) return text
  try {
    const value: unknown = JSON.parse(text)
    return value === null || typeof value === 'string' || typeof value === 'boolean' || typeof value === 'number'
      ? value
      : text
  } catch {
    return text
  }
}

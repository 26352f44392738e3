import { digest } from '../codec.ts'
import { conditionsOf, isOrdered, type Range, rangesOf } from '../filter.ts'
import type { JsonValue, RowFilter, Scalar } from '../store.ts'

/*
 * LanceDB takes conditions as SQL text, without parameters. Nothing that a user wrote ever stands in it: ids, keys and values are
 * kept, beside the row, as digests and hexadecimal digits, and asked for in that form. `facts` holds a digest for each "key has this value" (with an index); `ordered`
 * holds numbers and strings in a form whose order as text is their own, for ranges.
 */

/** What stands for an id in a condition: 32 hexadecimal digits. */
export function keyOf(id: string): string {
  return digest(JSON.stringify(id))
}

/** What a row's metadata can be asked for. */
export function searchableOf(metadata: Readonly<Record<string, JsonValue>>): {
  readonly facts: string[]
  readonly ordered: string
} {
  const facts: string[] = []
  let ordered = ''
  for (const [key, value] of Object.entries(metadata)) {
    if (typeof value === 'object' && value !== null) continue
    facts.push(hasKey(key), hasValue(key, value))
    if (isOrdered(value)) {
      ordered += mark(key, value) + orderedForm(value) + END
    }
  }
  return { facts, ordered }
}

/** The filter as a condition; undefined when every row passes. */
export function conditionOf(filter: RowFilter | undefined): string | undefined {
  if (filter === undefined) return undefined
  const parts: string[] = []
  if (filter.documentIds !== undefined) parts.push(oneOf('document_key', filter.documentIds.map(keyOf)))
  for (const { key, condition } of conditionsOf(filter)) {
    if (condition.in === undefined) parts.push(`array_has(facts, '${hasKey(key)}')`)
    else parts.push(anyFact(condition.in.map((value) => hasValue(key, value))))
    for (const { range, bound } of rangesOf(condition)) parts.push(within(key, range, bound))
  }
  for (const part of filter.and ?? []) parts.push(conditionOf(part) ?? 'true')
  if (filter.or !== undefined)
    parts.push(
      joined(
        'OR',
        filter.or.map((part) => conditionOf(part) ?? 'true'),
      ) ?? 'false',
    )
  if (filter.not !== undefined) parts.push(`NOT (${conditionOf(filter.not) ?? 'true'})`)
  return joined('AND', parts)
}

/** A condition that a column has one of these values, which are hexadecimal digits. */
export function oneOf(column: string, keys: readonly string[]): string {
  return keys.length === 0 ? 'false' : `${column} IN (${keys.map((key) => `'${key}'`).join(', ')})`
}

function joined(operator: 'AND' | 'OR', parts: readonly string[]): string | undefined {
  return parts.length === 0 ? undefined : parts.map((part) => `(${part})`).join(` ${operator} `)
}

function anyFact(facts: readonly string[]): string {
  if (facts.length === 0) return 'false'
  return `array_has_any(facts, [${facts.map((fact) => `'${fact}'`).join(', ')}])`
}

/** Hexadecimal digits that stand for a fact: 64 bits of its digest. */
const FACT = 16

function hasKey(key: string): string {
  return digest(JSON.stringify([key])).slice(0, FACT)
}

function hasValue(key: string, value: Scalar): string {
  return digest(JSON.stringify([key, value])).slice(0, FACT)
}

/** Ends a value, and sorts below every digit, so that a shorter string sorts before its continuations; the character behind it sorts there too. */
const END = '.'
const BEHIND_END = '/'

function mark(key: string, value: number | string): string {
  return `;${hasKey(key)}${typeof value === 'number' ? 'n' : 's'}`
}

function orderedForm(value: number | string): string {
  if (typeof value === 'string') return Buffer.from(value, 'utf8').toString('hex')
  const bytes = Buffer.alloc(8)
  // -0 is 0
  bytes.writeDoubleBE(value + 0)
  // IEEE 754: positive numbers sort by their bits above negative ones once the sign is flipped, negative ones by their bits inverted
  const negative = value < 0
  for (const [index, byte] of bytes.entries()) bytes[index] = negative ? ~byte : index === 0 ? byte ^ 0x80 : byte
  return bytes.toString('hex')
}

function within(key: string, range: Range, bound: number | string): string {
  // from the value on to the end: a comparison ends at the latest at the value's own end
  const value = `split_part(ordered, '${mark(key, bound)}', 2)`
  const form = orderedForm(bound)
  if (range === 'gte') return `${value} >= '${form}${END}'`
  if (range === 'gt') return `${value} >= '${form}${BEHIND_END}'`
  return `${value} <> '' AND ${value} < '${form}${range === 'lt' ? END : BEHIND_END}'`
}

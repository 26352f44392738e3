import type { JsonValue } from '../store.ts'

/*
 * PostgreSQL keeps every character but U+0000. It is written as U+0001 and "0", and U+0001 as itself and "1": rare characters, whose
 * order among all others stays as it was.
 */

/** The text as the database can keep it. */
export function escaped(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the characters that are meant
  return text.replace(/[\u0000\u0001]/g, (character) => (character === '\u0000' ? '\u00010' : '\u00011'))
}

/** The text that was {@link escaped}. */
export function unescaped(text: string): string {
  // biome-ignore lint/suspicious/noControlCharactersInRegex: the character that is meant
  return text.replace(/\u0001([01])/g, (_, digit) => (digit === '0' ? '\u0000' : '\u0001'))
}

/** The value with every string and key passed through `change`. */
export function withStrings(value: JsonValue, change: (text: string) => string): JsonValue {
  if (typeof value === 'string') return change(value)
  if (typeof value !== 'object' || value === null) return value
  if (Array.isArray(value)) return value.map((item: JsonValue) => withStrings(item, change))
  const entries = Object.entries(value).map(([key, item]) => [change(key), withStrings(item, change)] as const)
  return Object.fromEntries(entries)
}

import { ClaraError } from '../../errors.ts'
import { decodeStream } from '../decode.ts'
import type { JsonValue } from '../document.ts'
import { documentOf, findFields, requireFields } from '../records.ts'
import type { Reader } from './reader.ts'

/** JSON lines: every line an object, a document. Lines are read as they come, never the whole file. */
export const jsonLinesReader: Reader = {
  name: 'jsonl',
  extensions: ['jsonl', 'ndjson'],
  mediaTypes: ['application/jsonl', 'application/x-ndjson', 'application/x-jsonlines'],
  async *read(input, { fields, limits }) {
    let begun = false
    let number = 0
    for await (const line of lines(decodeStream(input.stream(), input.name), limits.recordBytes, input.name)) {
      number += 1
      if (line.trim() === '') continue
      const record = parseRecord(line)
      if (record === undefined) {
        yield { problem: `line ${number}: it is not a JSON object.` }
        continue
      }
      // records need not have the same keys; that the first lacks what was named is taken for a mistake in the naming
      const names = Object.keys(record)
      const mapping = findFields(fields, names)
      if (!begun) requireFields(mapping, [fields.text, fields.id].flat(), names, input.name)
      begun = true
      yield mapping
        ? documentOf(record, mapping, `line ${number}`, number)
        : { problem: `line ${number}: no field is known to hold the text.` }
    }
  },
}

function parseRecord(line: string): Readonly<Record<string, JsonValue>> | undefined {
  try {
    const value: unknown = JSON.parse(line)
    return typeof value === 'object' && value !== null && !Array.isArray(value)
      ? (value as Record<string, JsonValue>)
      : undefined
  } catch {
    return undefined
  }
}

async function* lines(
  text: AsyncIterable<string>,
  limit: number,
  name: string,
): AsyncGenerator<string, void, undefined> {
  let parts: string[] = []
  let length = 0
  const add = (part: string) => {
    length += part.length
    if (length > limit) {
      throw new ClaraError(`A line of ${name} is too long.`, {
        expected: `at most ${limit} characters`,
        hint: 'Is this a file of JSON lines, one object a line?',
      })
    }
    parts.push(part)
  }
  for await (const piece of text) {
    let start = 0
    for (let end = piece.indexOf('\n'); end >= 0; end = piece.indexOf('\n', start)) {
      add(piece.slice(start, end))
      yield parts.join('')
      parts = []
      length = 0
      start = end + 1
    }
    add(piece.slice(start))
  }
  if (length > 0) yield parts.join('')
}

import { pipeline, Readable } from 'node:stream'
import { type Parser, parse } from 'csv-parse'
import { ClaraError } from '../../errors.ts'
import { decodeStream } from '../decode.ts'
import type { BadRecord, ReadDocument } from '../document.ts'
import { documentOf, findFields, type Mapping, requireFields } from '../records.ts'
import type { Reader } from './reader.ts'

const delimiters = [',', ';', '\t', '|'] as const

/** Tables as CSV (RFC 4180) with a line of column names: every row a document. Rows are read as they come, never the whole file. */
export const csvReader: Reader = {
  name: 'csv',
  extensions: ['csv', 'tsv', 'tab'],
  mediaTypes: ['text/csv', 'text/tab-separated-values'],
  async *read(input, { fields, limits, delimiter }) {
    const text = decodeStream(input.stream(), input.name)
    const first = await text.next()
    const start = first.done === true ? '' : first.value
    const parser = parse({
      delimiter: delimiter ?? likelyDelimiter(start),
      max_record_size: limits.recordBytes,
      relax_column_count: true,
      relax_quotes: true,
      skip_empty_lines: true,
      info: true,
    })
    const rows = rowsOf(parser, start, text, limits.recordBytes, input.name)
    let columns: readonly string[] | undefined
    let mapping: Mapping | undefined
    let number = 0
    try {
      for await (const { record, line } of rows) {
        if (columns === undefined || mapping === undefined) {
          columns = distinct(record, input.name)
          mapping = findFields(fields, columns)
          const wanted = [fields.id, fields.title, fields.text, fields.metadata].flat()
          requireFields(mapping, wanted, columns, input.name)
          continue
        }
        number += 1
        yield rowDocument(record, columns, mapping, `line ${line}`, number)
      }
    } catch (error) {
      throw csvError(error, input.name, limits.recordBytes)
    }
  },
}

interface Row {
  readonly record: readonly string[]
  readonly line: number
}

/** Bytes that the parser gets at a time: it holds all rows that end in them. */
const PIECE = 16 * 1024
const NEWLINE = 0x0a

/** The rows as they come. The parser waits while nobody takes any. */
async function* rowsOf(
  parser: Parser,
  start: string,
  rest: AsyncIterable<string>,
  recordBytes: number,
  name: string,
): AsyncGenerator<Row, void, undefined> {
  // the parser counts the bytes of a row's cells, but not empty cells: a line of a million commas is stopped here
  let line = 0
  const checked = function* (text: string) {
    for (const bytes of slices(text)) {
      line = bytes.includes(NEWLINE) ? bytes.length - bytes.lastIndexOf(NEWLINE) : line + bytes.length
      if (line > recordBytes + PIECE) throw tooLong(name, recordBytes)
      yield bytes
    }
  }
  async function* pieces() {
    yield* checked(start)
    for await (const piece of rest) yield* checked(piece)
  }
  // pipeline destroys both ends whoever fails or stops first; the failure itself arrives through the iteration
  const rows: AsyncIterable<{ readonly record: readonly string[]; readonly info: { readonly lines: number } }> =
    pipeline(Readable.from(pieces(), { objectMode: false }), parser, () => {})
  for await (const { record, info } of rows) yield { record, line: info.lines }
}

function* slices(text: string): Generator<Buffer, void, undefined> {
  const bytes = Buffer.from(text)
  for (let at = 0; at < bytes.length; at += PIECE) yield bytes.subarray(at, at + PIECE)
}

function rowDocument(
  row: readonly string[],
  columns: readonly string[],
  mapping: Mapping,
  place: string,
  number: number,
): ReadDocument | BadRecord {
  if (row.length > columns.length) {
    return { problem: `${place}: the row has ${row.length} cells, but there are ${columns.length} columns.` }
  }
  const values = Object.fromEntries(row.map((cell, index) => [columns[index] ?? '', cell]))
  return documentOf(values, mapping, place, number)
}

function distinct(columns: readonly string[], name: string): string[] {
  const names = columns.map((column) => column.trim())
  const twice = names.find((column, index) => column !== '' && names.indexOf(column) !== index)
  if (twice === undefined) return names
  throw new ClaraError(`${name} has two columns ${JSON.stringify(twice)}.`, {
    hint: 'The first line must name the columns, each once.',
  })
}

/** The separator that the first line has most of, what stands in quotes aside. */
function likelyDelimiter(text: string): string {
  const line = (/^[^\r\n]*/.exec(text.slice(0, 65_536))?.[0] ?? '').replace(/"[^"]*"/g, '')
  const counts = delimiters.map((delimiter) => line.split(delimiter).length)
  return delimiters[counts.indexOf(Math.max(...counts))] ?? ','
}

function csvError(error: unknown, name: string, recordBytes: number): unknown {
  if (error instanceof ClaraError || !(error instanceof Error) || !('code' in error)) return error
  const line = 'lines' in error ? ` near line ${String(error.lines)}` : ''
  if (error.code === 'CSV_MAX_RECORD_SIZE') {
    return tooLong(name, recordBytes, line)
  }
  if (error.code === 'CSV_QUOTE_NOT_CLOSED') {
    return new ClaraError(`${name} ends inside quotes.`, { hint: 'A closing quote is missing.' })
  }
  return new ClaraError(`${name} is not CSV as it should be${line}.`, { received: error.message, cause: error })
}

function tooLong(name: string, recordBytes: number, line = ''): ClaraError {
  return new ClaraError(`A row of ${name}${line} is too long.`, {
    expected: `at most ${recordBytes} bytes a row`,
    hint: 'Is a closing quote missing?',
  })
}

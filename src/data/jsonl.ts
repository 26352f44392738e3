import { createReadStream } from 'node:fs'
import { pipeline } from 'node:stream'
import { createGunzip } from 'node:zlib'
import type { z } from 'zod'
import { ClaraError } from '../errors.ts'

/** Bounds against hostile or broken files. */
export interface JsonLinesLimits {
  /** Longest line, in bytes (default 16 MiB). */
  readonly lineBytes?: number
  /** Most bytes after decompression (default 16 GiB): a small .gz file can unpack to anything. */
  readonly totalBytes?: number
}

/**
 * Reads JSON lines one record at a time, without holding the file. A name that ends in `.gz` is decompressed. Blank
 * lines are skipped.
 * @throws ClaraError that names file and line: not JSON, not UTF-8, too long a line, a record that breaks the schema,
 *   a damaged gzip stream.
 */
export async function* readJsonLines<Schema extends z.ZodType>(
  path: string,
  schema: Schema,
  limits: JsonLinesLimits = {},
): AsyncGenerator<z.output<Schema>> {
  for await (const { number, value, error } of scanJsonLines(path, limits)) {
    if (error) throw error
    const parsed = schema.safeParse(value)
    if (!parsed.success) {
      const issue = parsed.error.issues[0]
      const place = issue === undefined || issue.path.length === 0 ? 'the record' : `"${issue.path.join('.')}"`
      throw new ClaraError(`${path}:${number}: the record does not fit its schema: ${place}: ${issue?.message}.`, {
        hint: 'Correct or remove the line.',
      })
    }
    yield parsed.data
  }
}

/** A line of a file: its number, counted from 1, and the JSON value on it, or why there is none. */
export interface JsonLine {
  readonly number: number
  readonly value?: unknown
  readonly error?: ClaraError
}

/**
 * Reads JSON lines one at a time and goes on after a line that is not JSON, for whoever wants to see all faults of a file.
 * @throws ClaraError for faults that no line after them survives: a file that cannot be read, too long a line, a damaged stream.
 */
export async function* scanJsonLines(path: string, limits: JsonLinesLimits = {}): AsyncGenerator<JsonLine> {
  for await (const { bytes, number } of readLines(path, limits)) {
    const line = parseBytes(bytes, path, number)
    if (line) yield line
  }
}

/** Undefined for a blank line. */
function parseBytes(bytes: Buffer, path: string, number: number): JsonLine | undefined {
  try {
    const line = decodeLine(bytes, path, number)
    return line.trim() === '' ? undefined : { number, value: parseLine(line, path, number) }
  } catch (error) {
    if (error instanceof ClaraError) return { number, error }
    throw error
  }
}

/** All records of a JSON lines file in an array; errors and limits as {@link readJsonLines}. */
export async function loadJsonLines<Schema extends z.ZodType>(
  path: string,
  schema: Schema,
  limits: JsonLinesLimits = {},
): Promise<z.output<Schema>[]> {
  const records: z.output<Schema>[] = []
  for await (const record of readJsonLines(path, schema, limits)) records.push(record)
  return records
}

const newline = 0x0a

/** Raw lines with their numbers, counted from 1. */
async function* readLines(
  path: string,
  limits: JsonLinesLimits,
): AsyncGenerator<{ readonly bytes: Buffer; readonly number: number }> {
  const lineLimit = limits.lineBytes ?? 16 * 2 ** 20
  const totalLimit = limits.totalBytes ?? 16 * 2 ** 30
  const tooLong = (number: number) =>
    new ClaraError(`${path}:${number}: the line is too long.`, {
      expected: `at most ${lineLimit} bytes a line`,
      hint: 'Is this a file of JSON lines, one record a line?',
    })
  let pending: Buffer[] = []
  let pendingBytes = 0
  let total = 0
  let number = 1
  try {
    for await (const chunk of openBytes(path)) {
      total += chunk.length
      if (total > totalLimit) {
        throw new ClaraError(`${path}: the file is too large.`, { expected: `at most ${totalLimit} bytes, unpacked` })
      }
      let start = 0
      for (let end = chunk.indexOf(newline); end !== -1; end = chunk.indexOf(newline, start)) {
        if (pendingBytes + end - start > lineLimit) throw tooLong(number)
        pending.push(chunk.subarray(start, end))
        yield { bytes: Buffer.concat(pending), number }
        pending = []
        pendingBytes = 0
        number += 1
        start = end + 1
      }
      pending.push(chunk.subarray(start))
      pendingBytes += chunk.length - start
      if (pendingBytes > lineLimit) throw tooLong(number)
    }
  } catch (error) {
    if (error instanceof ClaraError) throw error
    const code = (error as NodeJS.ErrnoException).code ?? ''
    if (code.startsWith('Z_')) {
      throw new ClaraError(`${path}:${number}: the gzip stream is damaged or cut short.`, {
        hint: 'Fetch or compress the file again.',
        cause: error,
      })
    }
    throw new ClaraError(`${path}: the file cannot be read (${code || (error as Error).message}).`, {
      expected: 'a readable .jsonl or .jsonl.gz file',
      cause: error,
    })
  }
  if (pendingBytes > 0) yield { bytes: Buffer.concat(pending), number }
}

function openBytes(path: string): AsyncIterable<Buffer> {
  const file = createReadStream(path, { highWaterMark: 2 ** 18 })
  if (!path.endsWith('.gz')) return file
  // pipeline destroys both ends whoever fails or stops first; the failure itself arrives through the iteration.
  return pipeline(file, createGunzip(), () => {})
}

function decodeLine(bytes: Buffer, path: string, number: number): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (cause) {
    throw new ClaraError(`${path}:${number}: the line is not valid UTF-8.`, {
      hint: 'Save the file as UTF-8.',
      cause,
    })
  }
}

function parseLine(line: string, path: string, number: number): unknown {
  try {
    return JSON.parse(line)
  } catch (cause) {
    const start = line.length > 60 ? `${line.slice(0, 60)}…` : line
    throw new ClaraError(`${path}:${number}: the line is not JSON.`, {
      expected: 'one JSON object a line',
      received: JSON.stringify(start),
      hint: 'Correct or remove the line.',
      cause,
    })
  }
}

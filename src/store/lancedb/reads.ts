import { readdir, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { RecordBatch } from 'apache-arrow'
import { slices } from '../slices.ts'
import { keyOf, oneOf } from './filter.ts'
import { textAt } from './rows.ts'
import type { Tables } from './tables.ts'

/** Rows that are asked for by id at a time. */
export const KEYS = 1_000

/** The content hashes of those of these rows that are there, by id. */
export async function hashesOf({ rows }: Tables, ids: readonly string[]): Promise<Map<string, string>> {
  const hashes = new Map<string, string>()
  for (const some of slices([...new Set(ids)], KEYS)) {
    const condition = oneOf('key', some.map(keyOf))
    for await (const batch of rows.query().where(condition).select(['id', 'content_hash'])) {
      for (let index = 0; index < batch.numRows; index++) {
        hashes.set(textAt(batch, 'id', index), textAt(batch, 'content_hash', index))
      }
    }
  }
  return hashes
}

/** What is asked of the rows with these ids, in their order; undefined where there is none. */
export async function readById<Value>(
  { rows }: Tables,
  ids: readonly string[],
  columns: readonly string[],
  decode: (batch: RecordBatch, index: number) => Value,
): Promise<(Value | undefined)[]> {
  // Decoded anew for every place: one id may be asked for twice, and callers own what they get.
  const places = new Map<string, number[]>()
  for (const [place, id] of ids.entries()) places.set(id, [...(places.get(id) ?? []), place])
  const values = new Array<Value | undefined>(ids.length)
  for (const some of slices([...places.keys()], KEYS)) {
    const query = rows.query().where(oneOf('key', some.map(keyOf)))
    for await (const batch of query.select([...new Set(['id', ...columns])])) {
      for (let index = 0; index < batch.numRows; index++) {
        for (const place of places.get(textAt(batch, 'id', index)) ?? []) values[place] = decode(batch, index)
      }
    }
  }
  return values
}

/** Bytes of all files in a folder. */
export async function bytesIn(folder: string): Promise<number> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true })
  let bytes = 0
  for (const entry of entries) {
    // a file may go while it is looked at
    if (entry.isFile())
      bytes += await stat(join(entry.parentPath, entry.name)).then(
        ({ size }) => size,
        () => 0,
      )
  }
  return bytes
}

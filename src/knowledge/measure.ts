import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { openFolder } from '../ingestion/folder.ts'
import { folderOptionsSchema, parseOptions } from '../ingestion/options.ts'
import type { ReadingOptions } from './files.ts'

/** Files and bytes that inputs hold, without reading them; undefined when that cannot be told (standard input, web addresses, globs), or only slowly. */
export async function measureInputs(
  inputs: readonly string[],
  { include, exclude, hidden, ignoreFiles, followLinks }: ReadingOptions,
  signal?: AbortSignal,
): Promise<{ readonly files: number; readonly bytes: number } | undefined> {
  const given = { include, exclude, hidden, ignoreFiles, followLinks }
  const options = parseOptions(
    folderOptionsSchema,
    Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)),
    'reading files',
  )
  let [files, bytes] = [0, 0]
  const count = async (path: string) => {
    files++
    bytes += (await stat(path)).size
  }
  try {
    for (const input of inputs) {
      if (!(await stat(input)).isDirectory()) await count(input)
      else {
        for await (const entry of (await openFolder(input, options, signal)).walk()) {
          if (entry.kind === 'file') await count(join(input, entry.path))
          if (files > MOST_FILES) return undefined
        }
      }
    }
  } catch {
    return undefined
  }
  return { files, bytes }
}

/** Counting more would keep the user waiting. */
const MOST_FILES = 100_000

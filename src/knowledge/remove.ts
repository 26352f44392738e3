import type { Store } from '../store/store.ts'
import { entryOf } from './records.ts'
import { documentPath, isBelow } from './sync.ts'

/** Removes documents by id, by the file that they were read from, or by a folder that this lies in. */
export async function removePaths(
  store: Store,
  paths: readonly string[],
): Promise<{ readonly documents: number; readonly chunks: number }> {
  const ids = new Set(paths)
  const folders = paths.map(documentPath)
  const removed: string[] = []
  let documents = 0
  for await (const record of store.documents()) {
    const { documentId, note } = entryOf(record)
    const { source } = note
    const isMeant = ids.has(documentId) || (source !== undefined && folders.some((folder) => isBelow(folder, source)))
    if (!isMeant) continue
    removed.push(documentId)
    if (note.several !== true) documents++
  }
  return { documents, chunks: removed.length === 0 ? 0 : await store.remove(removed) }
}

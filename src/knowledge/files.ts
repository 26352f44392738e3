import { ClaraError } from '../errors.ts'
import { readTextFile } from '../ingestion/text-file.ts'
import type { KnowledgeDocument } from './chunks.ts'

/**
 * Text files as documents; a document's id is its path as given.
 * @throws ClaraError when a file is named twice, or cannot be read as text.
 */
export async function readDocuments(paths: readonly string[]): Promise<KnowledgeDocument[]> {
  const twice = paths.find((path, index) => paths.indexOf(path) !== index)
  if (twice !== undefined) throw new ClaraError(`"${twice}" is named twice.`, { hint: 'Name every file once.' })
  return Promise.all(paths.map(async (path) => ({ id: path, text: await readTextFile(path) })))
}

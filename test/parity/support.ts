import { cp, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Folders of numbers from the published code that lie in the repository. */
export const parityFolder = (name: 'mistral-1' | 'llama-3'): string =>
  join(import.meta.dirname, '..', 'fixtures', 'parity', name)

/** A copy that may be changed, gone at the end of the block. */
export async function copyOf(name: 'mistral-1' | 'llama-3'): Promise<{ path: string } & AsyncDisposable> {
  const root = await mkdtemp(join(tmpdir(), 'clara-parity-'))
  const path = join(root, name)
  await cp(parityFolder(name), path, { recursive: true })
  return { path, [Symbol.asyncDispose]: () => rm(root, { recursive: true, force: true }) }
}

/** Changes a JSON file in place. */
export async function editJson(path: string, edit: (content: Record<string, unknown>) => void): Promise<void> {
  const content: Record<string, unknown> = JSON.parse(await readFile(path, 'utf8'))
  edit(content)
  // a new file in its place: copies of read-only files are read-only
  await rm(path)
  await writeFile(path, JSON.stringify(content))
}

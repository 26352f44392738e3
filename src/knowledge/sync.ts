import { lstat, stat } from 'node:fs/promises'
import { sep } from 'node:path'
import { normalize } from 'node:path/posix'
import picomatch from 'picomatch'
import { type Folder, openFolder } from '../ingestion/folder.ts'
import type { Ingested } from '../ingestion/ingest.ts'
import { folderOptionsSchema, parseOptions } from '../ingestion/options.ts'
import { isWebAddress } from '../ingestion/web.ts'
import type { Store } from '../store/store.ts'
import type { ReadingOptions } from './files.ts'
import type { FilesAdded, Synced } from './options.ts'
import { entryOf } from './records.ts'

/** What is known of files after all inputs were read. */
export interface Seen {
  readonly note: (event: Ingested) => void
  readonly has: (path: string) => boolean
  /** Whether something on the way to a file could not be read: then nobody knows whether it is gone. */
  readonly isUncertain: (path: string) => boolean
}

/** Files beyond this number are looked up on the disk instead. */
const MOST_SEEN = 200_000
/** Beyond this many failures nothing is taken for gone. */
const MOST_FAILED = 1_000
const REMOVED_AT_ONCE = 500

export function createSeen(): Seen {
  const present = new Set<string>()
  const failed: string[] = []
  return {
    note({ kind, path }) {
      if (kind === 'failed') failed.push(path)
      else if ((kind === 'read' || kind === 'unchanged') && present.size < MOST_SEEN) present.add(path)
    },
    has: (path) => present.has(path),
    isUncertain: (path) => failed.length > MOST_FAILED || failed.some((one) => isBelow(one, path)),
  }
}

/**
 * Removes the documents of files that are below the inputs and gone, or no longer to be read by the rules for folders.
 * @param added What became of the files that were read.
 */
export async function removeGone(
  store: Store,
  inputs: readonly string[],
  reading: ReadingOptions,
  seen: Seen,
  added: FilesAdded,
): Promise<Synced> {
  const scopes = await Promise.all(
    inputs.filter((input) => input !== '-' && !isWebAddress(input)).map(scopeOf(reading)),
  )
  const removed: string[] = []
  let documents = 0
  const goneInputs = new Set<string>()
  let last: { readonly source: string; readonly isGone: boolean } | undefined
  for await (const record of store.documents()) {
    const { documentId, note } = entryOf(record)
    const { source } = note
    if (source === undefined || seen.has(source)) continue
    if (last?.source !== source) last = { source, isGone: await isGone(source) }
    if (!last.isGone) continue
    removed.push(documentId)
    if (note.several !== true) documents++
  }
  async function isGone(source: string): Promise<boolean> {
    const scope = scopes.find(({ holds }) => holds(source))
    if (scope === undefined || !(await scope.isGone(source))) return false
    if (scope.isMissing) goneInputs.add(scope.path)
    else if (seen.isUncertain(source)) return false
    return true
  }
  let chunks = 0
  for (let start = 0; start < removed.length; start += REMOVED_AT_ONCE)
    chunks += await store.remove(removed.slice(start, start + REMOVED_AT_ONCE))
  // that an input is gone is what sync is for
  const problems = added.files.problems.filter(({ path }) => !goneInputs.has(path))
  const failed = added.files.failed - (added.files.problems.length - problems.length)
  return { ...added, files: { ...added.files, failed, problems }, removed: { documents, chunks } }
}

/** Whether a path is another, or lies below it. Both as documents name them: normalised, with forward slashes. */
export function isBelow(folder: string, path: string): boolean {
  if (folder === '.') return !path.startsWith('/') && path !== '..' && !path.startsWith('../') && !isWebAddress(path)
  return path === folder || path.startsWith(folder.endsWith('/') ? folder : `${folder}/`)
}

/** A path as documents name it. */
export function documentPath(path: string): string {
  const normal = normalize(path.split(sep).join('/'))
  return normal.length > 1 ? normal.replace(/\/+$/, '') : normal
}

/** An input, and which files it stands for. */
interface Scope {
  readonly path: string
  /** It is not there. */
  readonly isMissing: boolean
  readonly holds: (source: string) => boolean
  readonly isGone: (source: string) => Promise<boolean>
}

const scopeOf =
  ({ include, exclude, hidden, ignoreFiles, followLinks }: ReadingOptions) =>
  async (input: string): Promise<Scope> => {
    const given = { include, exclude, hidden, ignoreFiles, followLinks }
    const options = parseOptions(
      folderOptionsSchema,
      Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined)),
      'reading files',
    )
    const path = documentPath(input)
    const facts = await stat(input).catch(() => undefined)
    if (facts?.isDirectory()) return folderScope(path, await openFolder(path, options))
    const { base, glob, isGlob } = picomatch.scan(input.split(sep).join('/'))
    if (facts === undefined && isGlob) {
      const root = documentPath(base === '' ? '.' : base)
      const folder = await openFolder(root, { ...options, include: [glob.includes('/') ? glob : `./${glob}`] }).catch(
        () => undefined,
      )
      if (folder === undefined) return { path, isMissing: false, holds: () => false, isGone: async () => false }
      const matches = picomatch(glob, { dot: options.hidden })
      const scope = folderScope(root, folder)
      // what the pattern does not name was never the input's
      return { ...scope, holds: (source) => scope.holds(source) && matches(relativeTo(root, source)) }
    }
    const isMissing = facts === undefined && (await lstat(input).catch(() => undefined)) === undefined
    return { path, isMissing, holds: (source) => isBelow(path, source), isGone: async () => isMissing }
  }

function folderScope(root: string, folder: Folder): Scope {
  return {
    path: root,
    isMissing: false,
    holds: (source) => source !== root && isBelow(root, source),
    async isGone(source) {
      const found = await folder.look(relativeTo(root, source))
      return found === undefined || found.kind === 'skipped' || found.kind === 'folder'
    },
  }
}

const relativeTo = (root: string, path: string) =>
  root === '.' ? path : path.slice(root.endsWith('/') ? root.length : root.length + 1)

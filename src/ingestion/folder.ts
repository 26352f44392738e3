import type { Dirent } from 'node:fs'
import { lstat, opendir, realpath, stat } from 'node:fs/promises'
import { join, sep } from 'node:path'
import { ClaraError } from '../errors.ts'
import { createRules, type Layer, type Rules, readLayer } from './ignore-rules.ts'
import type { FolderOptions } from './options.ts'
import { fileError, quoted } from './source.ts'

/** What lies in a folder. Paths are below it, with forward slashes. */
export type FolderEntry =
  | { readonly kind: 'file'; readonly path: string }
  /** Entered next. */
  | { readonly kind: 'folder'; readonly path: string }
  /** Left out on purpose. `byName`: whatever it is, and for as long as the rules stay. */
  | { readonly kind: 'skipped'; readonly path: string; readonly reason: string; readonly byName?: true }
  /** Cannot be read. */
  | { readonly kind: 'failed'; readonly path: string; readonly error: ClaraError }

/** A folder with the rules that say which of its files are read. */
export interface Folder {
  readonly root: string
  /**
   * All entries, depth first, in the order in which the file system gives them. Holds one open folder a level, never a list of names.
   * @param below Where to begin: a folder below the root.
   */
  readonly walk: (below?: string) => AsyncGenerator<FolderEntry, void, undefined>
  /**
   * What is at a path below the root, by the same rules as {@link walk}; undefined when there is nothing, or nothing that walk would come to.
   */
  readonly look: (path: string) => Promise<FolderEntry | undefined>
}

/** Deeper folders are left out, which also ends whatever loops there may be. */
const DEEPEST = 256

/**
 * Opens a folder; may itself be a symbolic link.
 * @throws ClaraError when it does not exist or is no folder.
 */
export async function openFolder(root: string, options: FolderOptions, signal?: AbortSignal): Promise<Folder> {
  const name = quoted(root)
  const realRoot = await realpath(root).catch((error: unknown) => {
    throw fileError(name, error)
  })
  if (!(await stat(realRoot)).isDirectory()) throw new ClaraError(`${name} is not a folder.`)
  const visit: Visit = { root, realRoot, options, rules: createRules(options), ...(signal ? { signal } : {}) }
  return {
    root,
    async *walk(below = '') {
      const layers = await layersAbove(visit, below)
      const seen = new Set<string>()
      if (options.followLinks) seen.add(await realpath(join(root, below)))
      yield* enter(visit, below, layers, seen, below === '' ? 0 : below.split('/').length)
    },
    look: (path) => look(visit, path),
  }
}

interface Visit {
  readonly root: string
  readonly realRoot: string
  readonly options: FolderOptions
  readonly rules: Rules
  readonly signal?: AbortSignal
}

async function* enter(
  visit: Visit,
  folder: string,
  above: readonly Layer[],
  /** Real paths of the folders that were entered, when links are followed: each is entered once. */
  seen: Set<string>,
  depth: number,
): AsyncGenerator<FolderEntry, void, undefined> {
  if (depth > DEEPEST) {
    yield { kind: 'skipped', path: folder, reason: `more than ${DEEPEST} folders deep` }
    return
  }
  const layers = await withLayer(visit, folder, above)
  try {
    for await (const entry of await opendir(join(visit.root, folder), { bufferSize: 256 })) {
      visit.signal?.throwIfAborted()
      const path = folder === '' ? entry.name : `${folder}/${entry.name}`
      const found = await judge(visit, path, entry, layers)
      if (found.kind !== 'folder') {
        yield found
        continue
      }
      if (visit.options.followLinks) {
        const real = await realpath(join(visit.root, path)).catch(() => undefined)
        if (real === undefined || seen.has(real)) {
          yield { kind: 'skipped', path, reason: 'a folder that was entered by another path' }
          continue
        }
        seen.add(real)
      }
      yield found
      yield* enter(visit, path, layers, seen, depth + 1)
    }
  } catch (error) {
    visit.signal?.throwIfAborted()
    // a folder that goes away, or may not be read, takes nothing from its neighbours
    yield { kind: 'failed', path: folder, error: fileError(quoted(join(visit.root, folder)), error) }
  }
}

type Kind = Pick<Dirent, 'isFile' | 'isDirectory' | 'isSymbolicLink'>

async function judge(visit: Visit, path: string, entry: Kind, layers: readonly Layer[]): Promise<FolderEntry> {
  let [isFolder, isFile] = [entry.isDirectory(), entry.isFile()]
  const early = visit.rules.reason(path, isFolder, layers)
  if (early !== undefined) return { kind: 'skipped', path, reason: early, byName: true }
  if (entry.isSymbolicLink()) {
    if (!visit.options.followLinks) return { kind: 'skipped', path, reason: 'a symbolic link' }
    try {
      const real = await realpath(join(visit.root, path))
      if (!isInside(visit.realRoot, real)) {
        return { kind: 'skipped', path, reason: 'a symbolic link that leads out of the folder' }
      }
      const target = await stat(real)
      isFolder = target.isDirectory()
      isFile = target.isFile()
    } catch (error) {
      return { kind: 'failed', path, error: fileError(quoted(join(visit.root, path)), error) }
    }
    const reason = visit.rules.reason(path, isFolder, layers)
    if (reason !== undefined) return { kind: 'skipped', path, reason }
  }
  if (isFolder) return { kind: 'folder', path }
  return isFile ? { kind: 'file', path } : { kind: 'skipped', path, reason: 'a pipe, a device or a socket' }
}

/** Whether a path, both real, is the folder or lies in it. */
function isInside(folder: string, path: string): boolean {
  return path === folder || path.startsWith(folder.endsWith(sep) ? folder : folder + sep)
}

async function look(visit: Visit, path: string): Promise<FolderEntry | undefined> {
  const names = path.split('/')
  if (names.length - 1 > DEEPEST || names.some((name) => name === '' || name === '.' || name === '..')) return undefined
  let layers = await withLayer(visit, '', [])
  for (let count = 1; count < names.length; count++) {
    const folder = names.slice(0, count).join('/')
    const entry = await lstat(join(visit.root, folder)).catch(() => undefined)
    if (entry === undefined || (await judge(visit, folder, entry, layers)).kind !== 'folder') return undefined
    layers = await withLayer(visit, folder, layers)
  }
  const entry = await lstat(join(visit.root, path)).catch(() => undefined)
  return entry === undefined ? undefined : judge(visit, path, entry, layers)
}

async function withLayer(visit: Visit, folder: string, layers: readonly Layer[]): Promise<readonly Layer[]> {
  if (!visit.options.ignoreFiles) return layers
  const layer = await readLayer(join(visit.root, folder), folder === '' ? '' : `${folder}/`)
  return layer ? [...layers, layer] : layers
}

/** The layers of all folders around one. */
async function layersAbove(visit: Visit, folder: string): Promise<readonly Layer[]> {
  let layers: readonly Layer[] = []
  const names = folder === '' ? [] : folder.split('/')
  for (let count = 0; count < names.length; count++) {
    layers = await withLayer(visit, names.slice(0, count).join('/'), layers)
  }
  return layers
}

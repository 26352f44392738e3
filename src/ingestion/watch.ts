import { type FSWatcher, statSync, watch } from 'node:fs'
import { lstat, stat } from 'node:fs/promises'
import { join } from 'node:path'
import type { z } from 'zod'
import { ClaraError } from '../errors.ts'
import { type FolderEntry, openFolder } from './folder.ts'
import { ignoreFileNames } from './ignore-rules.ts'
import { folderOptionsSchema, parseOptions } from './options.ts'

export type WatchOptions = z.input<typeof folderOptionsSchema> & {
  /** Time without a change after which changes are reported, in milliseconds; they never wait longer than ten times this. Default: 300. */
  readonly quietMs?: number
  readonly signal?: AbortSignal
}

/** What changed in a folder. Paths are below it, with forward slashes. */
export interface FolderChange {
  /** Everything may have changed: look through the whole folder. So the first one always says, when watching has begun. */
  readonly rescan: boolean
  /** Files to read again. */
  readonly changed: readonly string[]
  /** What is gone, or no longer to be read: a file, or a folder with all that was in it. To be removed before `changed` is read. */
  readonly removed: readonly string[]
}

/** Changes beyond this number are not listed one by one. */
const MOST_PENDING = 10_000

/**
 * Watches a folder and all below it, by the rules that {@link openFolder} has: changes are gathered until it is quiet, then given together.
 * Events are only taken as a hint where to look, so that lost and doubled ones, renames and deletions do no harm. Ends when the
 * signal aborts or the consumer stops.
 * @throws ClaraError when the folder is no folder, goes away, or the system cannot watch so many folders.
 */
export async function* watchFolder(
  root: string,
  { quietMs = 300, signal, ...given }: WatchOptions = {},
): AsyncGenerator<FolderChange, void, undefined> {
  const options = parseOptions(folderOptionsSchema, given, 'watching a folder')
  const folder = await openFolder(root, options)
  const isHidden = (path: string) => !options.hidden && path.split('/').some((name) => name.startsWith('.'))
  const watchers = new Map<string, { readonly watcher: FSWatcher; readonly inode: number }>()
  const pending = createPending()
  try {
    const watchAt = (path: string) => {
      if (watchers.has(path)) return
      const watcher = watch(join(root, path))
      watchers.set(path, { watcher, inode: inodeOf(join(root, path)) })
      watcher.on('change', (_, name) => {
        // without a name it could be anything
        if (name === null) pending.all()
        else pending.add(path === '' ? String(name) : `${path}/${String(name)}`)
      })
      watcher.on('error', () => {
        // its folder is gone, which the folder around it also says
        forget(path)
        pending.add(path)
      })
    }
    const forget = (path: string) => {
      for (const [watched, { watcher }] of watchers) {
        if (watched !== path && !(path === '' || watched.startsWith(`${path}/`))) continue
        watcher.close()
        watchers.delete(watched)
      }
    }
    /** Watches a folder and those below it; gives the files in them. */
    async function* begin(path: string): AsyncGenerator<string, void, undefined> {
      watchAt(path)
      for await (const entry of folder.walk(path)) {
        if (entry.kind === 'folder') watchAt(entry.path)
        else if (entry.kind === 'file') yield entry.path
      }
    }
    const beginAll = async () => {
      forget('')
      for await (const _ of begin(''));
    }
    try {
      await beginAll()
    } catch (error) {
      throw watchError(root, error)
    }
    yield { rescan: true, changed: [], removed: [] }
    while (await pending.quiet(quietMs, signal)) {
      if (!(await isFolder(root))) throw new ClaraError(`The folder ${JSON.stringify(root)} is gone.`)
      const { paths, rescan } = pending.take()
      if (rescan || paths.some((path) => isIgnoreFile(path))) {
        await beginAll()
        yield { rescan: true, changed: [], removed: [] }
        continue
      }
      const changed = new Set<string>()
      const removed = new Set<string>()
      for (const path of paths.sort()) {
        const entry = await folder.look(path)
        if (entry?.kind === 'file') changed.add(path)
        else if (entry?.kind === 'folder') {
          // new, or renamed into place: what is in it was never reported, and what stood there before is gone
          const before = watchers.get(path)
          if (before && before.inode !== inodeOf(join(root, path))) removed.add(path)
          forget(path)
          for await (const file of begin(path)) changed.add(file)
        } else {
          forget(path)
          // what its name alone rules out was never read
          const wasRead = entry === undefined ? !isHidden(path) && !(await exists(join(root, path))) : isReplaced(entry)
          if (wasRead) removed.add(path)
        }
      }
      if (changed.size + removed.size > 0) yield { rescan: false, changed: [...changed], removed: outermost(removed) }
    }
  } catch (error) {
    throw watchError(root, error)
  } finally {
    for (const { watcher } of watchers.values()) watcher.close()
  }
}

const isIgnoreFile = (path: string) => ignoreFileNames.some((name) => path === name || path.endsWith(`/${name}`))
/** Those that do not lie below another. */
function outermost(paths: ReadonlySet<string>): string[] {
  const isBelow = (path: string) => {
    for (let at = path.indexOf('/'); at >= 0; at = path.indexOf('/', at + 1))
      if (paths.has(path.slice(0, at))) return true
    return false
  }
  return [...paths].filter((path) => !isBelow(path))
}

const inodeOf = (path: string) => statSync(path, { throwIfNoEntry: false })?.ino ?? 0
/** Whether something that is not read may stand where something was. */
const isReplaced = (entry: FolderEntry) => entry.kind === 'skipped' && entry.byName !== true
const isFolder = (path: string) =>
  stat(path).then(
    (facts) => facts.isDirectory(),
    () => false,
  )
const exists = (path: string) =>
  lstat(path).then(
    () => true,
    () => false,
  )

function watchError(root: string, error: unknown): unknown {
  const code = error instanceof Error && 'code' in error ? error.code : undefined
  if (code !== 'ENOSPC' && code !== 'EMFILE') return error
  return new ClaraError(`${JSON.stringify(root)} has more folders than this system can watch.`, {
    received: String(code),
    hint: 'Leave some out, or raise fs.inotify.max_user_watches (on Linux).',
    cause: error,
  })
}

/** The paths at which something happened, until somebody takes them. */
function createPending() {
  const paths = new Set<string>()
  let everything = false
  let first = 0
  let latest = 0
  let wake = () => {}
  const touch = () => {
    latest = performance.now()
    if (first === 0) first = latest
    wake()
  }
  return {
    add(path: string) {
      if (paths.size >= MOST_PENDING) everything = true
      else paths.add(path)
      touch()
    },
    all() {
      everything = true
      touch()
    },
    take() {
      const taken = { paths: [...paths], rescan: everything }
      paths.clear()
      everything = false
      first = 0
      return taken
    },
    /** Waits until something has happened and nothing more does; false when the signal aborts. */
    async quiet(quietMs: number, signal: AbortSignal | undefined): Promise<boolean> {
      for (;;) {
        if (signal?.aborted) return false
        const now = performance.now()
        const due = Math.min(latest + quietMs, first + 10 * quietMs)
        if (first !== 0 && now >= due) return true
        await new Promise<void>((resolve) => {
          const timer = first === 0 ? undefined : setTimeout(() => wake(), due - now)
          wake = () => {
            clearTimeout(timer)
            signal?.removeEventListener('abort', wake)
            wake = () => {}
            resolve()
          }
          signal?.addEventListener('abort', wake)
        })
      }
    },
  }
}

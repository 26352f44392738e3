/**
 * The cache that the Hugging Face tools share:
 *
 *     models--ORG--NAME/blobs/HASH               a content, named by its hash
 *     models--ORG--NAME/snapshots/COMMIT/PATH    a relative link to it
 *     models--ORG--NAME/refs/REVISION            the commit of a branch or tag
 *
 * Everything is written under another name first and renamed, so that other programs never see a part.
 */
import { randomBytes } from 'node:crypto'
import {
  copyFile,
  link,
  lstat,
  mkdir,
  readFile,
  readlink,
  realpath,
  rename,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises'
import { join, sep } from 'node:path'
import { ClaraError } from '../errors.ts'
import { baseOnHub, isCommit, isRevision, isSafePath } from './names.ts'
import { cacheFolderOf, type Environment } from './settings.ts'

/** A model's place in the cache. Hashes, commits, revisions and paths given to it have been checked by the caller. */
export interface CachedModel {
  readonly folder: string
  /** Where the content with this hash belongs. */
  blob(hash: string): string
  /** Where it is gathered until it is whole and verified. */
  partial(hash: string): string
  /** The lock of whoever gathers it. */
  lock(hash: string): string
  /** The folder of a commit's files. */
  snapshot(commit: string): string
  /** Makes a content appear as a file of a commit. */
  show(commit: string, path: string, hash: string): Promise<void>
  /** Notes which commit a branch or tag is. */
  setRevision(revision: string, commit: string): Promise<void>
}

/**
 * Opens a model's place in the cache, and makes it where it does not exist.
 *
 * @throws ClaraError when the cache cannot be written, or a link in it leads outside.
 */
export async function openCachedModel(cacheFolder: string, name: string): Promise<CachedModel> {
  const root = await withFileErrors(cacheFolder, async () => {
    await mkdir(cacheFolder, { recursive: true })
    return realpath(cacheFolder)
  })
  const modelName = folderName(name)
  const folder = await folderWithin(root, [modelName])
  await folderWithin(root, [modelName, 'blobs'])
  const locks = await folderWithin(root, ['.locks', modelName])

  /** Puts what `make` made under a temporary name at its place below the model's folder. */
  async function place(parents: readonly string[], file: string, make: (temporary: string) => Promise<void>) {
    const target = join(await folderWithin(root, [modelName, ...parents]), file)
    // Not beside the target: other tools take every file under refs/ for a revision.
    const temporary = join(folder, `.clara-${randomBytes(8).toString('hex')}.tmp`)
    await withFileErrors(target, async () => {
      try {
        await make(temporary)
        await rename(temporary, target)
      } finally {
        await rm(temporary, { force: true })
      }
    })
  }

  return {
    folder,
    blob: (hash) => join(folder, 'blobs', hash),
    partial: (hash) => join(folder, 'blobs', `${hash}.clara-incomplete`),
    lock: (hash) => join(locks, `${hash}.clara`),
    snapshot: (commit) => join(folder, 'snapshots', commit),
    async show(commit, path, hash) {
      const parts = path.split('/')
      const parents = ['snapshots', commit, ...parts.slice(0, -1)]
      const file = parts.at(-1) ?? ''
      const target = `${'../'.repeat(parents.length)}blobs/${hash}`
      const shown = await readlink(join(folder, ...parents, file)).catch(() => undefined)
      if (shown === target) return
      await place(parents, file, (temporary) => linkOrCopy(target, join(folder, 'blobs', hash), temporary))
    },
    async setRevision(revision, commit) {
      if (revision === commit) return
      const parts = revision.split('/')
      await place(['refs', ...parts.slice(0, -1)], parts.at(-1) ?? '', (temporary) => writeFile(temporary, commit))
    },
  }
}

/** What to look for in the cache besides the name. */
export interface CacheQuery {
  /** A branch, a tag or a commit. Default: main. */
  readonly revision?: string | undefined
  readonly subfolder?: string | undefined
  /** Default: the process's. */
  readonly environment?: Environment
}

/**
 * Finds a model that was fetched before, by this program or by another Hugging Face tool. Asks nobody, and checks no content.
 *
 * @param name A name on the hub, or a checkpoint's `decoder_model_name`: a path that ends with the name of a known base stands for that base.
 * @returns The folder with its `config.json`; undefined where there is none.
 */
export async function findInCache(name: string, query: CacheQuery = {}): Promise<string | undefined> {
  const { revision = 'main', subfolder, environment = process.env } = query
  const hubName = baseOnHub(name)
  if (hubName === undefined || !isRevision(revision)) return undefined
  if (subfolder !== undefined && !isSafePath(subfolder)) return undefined
  const folder = join(cacheFolderOf(environment), folderName(hubName))
  const commit = isCommit(revision) ? revision : await readRevision(join(folder, 'refs', ...revision.split('/')))
  if (commit === undefined) return undefined
  const found = join(folder, 'snapshots', commit, ...(subfolder?.split('/') ?? []))
  const config = await realpath(join(found, 'config.json')).catch(() => undefined)
  return config === undefined ? undefined : found
}

async function readRevision(path: string): Promise<string | undefined> {
  const facts = await lstat(path).catch(() => undefined)
  if (!facts?.isFile() || facts.size > 100) return undefined
  const commit = (await readFile(path, 'utf8')).trim()
  return isCommit(commit) ? commit : undefined
}

const folderName = (name: string): string => `models--${name.replaceAll('/', '--')}`

/** Makes a folder step by step, so that no step is made behind a link that leads out of the cache. */
async function folderWithin(root: string, parts: readonly string[]): Promise<string> {
  let folder = root
  for (const part of parts) {
    const next = join(folder, part)
    const real = await withFileErrors(next, async () => {
      await mkdir(next).catch((error: unknown) => {
        if (codeOf(error) !== 'EEXIST') throw error
      })
      return realpath(next)
    })
    if (!real.startsWith(root.endsWith(sep) ? root : root + sep)) {
      throw new ClaraError(`"${next}" leads out of the cache, to "${real}". Nothing was written there.`, {
        hint: 'Remove that link; to keep the cache elsewhere, name its folder in HF_HUB_CACHE.',
      })
    }
    folder = real
  }
  return folder
}

/** Some file systems have no symbolic links, and Windows asks for a right to make them. */
async function linkOrCopy(target: string, blob: string, path: string): Promise<void> {
  try {
    await symlink(target, path, 'file')
  } catch (error) {
    if (!['EPERM', 'EACCES', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP', 'EINVAL', 'UNKNOWN'].includes(codeOf(error)))
      throw error
    await link(blob, path).catch(() => copyFile(blob, path))
  }
}

/** Runs file operations on something in the cache; what the system says becomes an error for the user. */
export async function withFileErrors<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work()
  } catch (error) {
    const code = codeOf(error)
    if (code === '') throw error
    if (code === 'ENOSPC' || code === 'EDQUOT') {
      throw new ClaraError(`The disk is full: "${path}" could not be written.`, {
        hint: 'What has arrived stays. Free some space and run the command again, or name another folder in HF_HUB_CACHE.',
        cause: error,
      })
    }
    throw new ClaraError(`"${path}" in the cache cannot be written.`, {
      received: code,
      hint: 'Name a folder that may be written to in HF_HUB_CACHE.',
      cause: error,
    })
  }
}

/** The system's code of a file error; empty for other errors. */
function codeOf(error: unknown): string {
  const isSystemError = error instanceof Error && 'syscall' in error && 'code' in error
  return isSystemError && typeof error.code === 'string' ? error.code : ''
}

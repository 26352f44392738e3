import { lstat, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { ClaraError } from '../errors.ts'
import { type CachedModel, findInCache, openCachedModel, withFileErrors } from './cache.ts'
import { download } from './download.ts'
import { TransientError } from './failures.ts'
import type { Connection, Patience } from './http.ts'
import { type HubFile, type Listing, listModel } from './listing.ts'
import { whileLocked } from './lock.ts'
import { baseOnHub, checkHubName, checkRevision, isSafePath } from './names.ts'
import { defaultPatience } from './retry.ts'
import { readJson, selectFiles, shardsOf } from './select.ts'
import { type Environment, hubSettings } from './settings.ts'
import { isWhole } from './verify.ts'

export interface PullProgress {
  readonly path: string
  /** `waiting` for another process that fetches the same file; `checking` what is on the disk; `fetching` from the hub. */
  readonly phase: 'waiting' | 'checking' | 'fetching' | 'done'
  /** Bytes of all files that are done with, of `total`. Falls when damaged bytes are thrown away. */
  readonly done: number
  readonly total: number
}

export interface PullOptions {
  /** A branch, a tag or a commit. Default: main. */
  readonly revision?: string | undefined
  /** Folder of the repository that holds the model. Default: its top. */
  readonly subfolder?: string | undefined
  /** Default: the process's. */
  readonly environment?: Environment
  readonly signal?: AbortSignal
  readonly onProgress?: (progress: PullProgress) => void
  /** Default: six attempts, a minute without a byte. */
  readonly patience?: Patience
}

export interface PulledModel {
  readonly name: string
  readonly revision: string
  readonly commit: string
  /** Where the model's files are, `config.json` among them. */
  readonly folder: string
  readonly kind: 'checkpoint' | 'model'
  /** Every file was verified against the hub's hash; `fetched` tells whether it came now or was there. */
  readonly files: readonly { readonly path: string; readonly size: number; readonly fetched: boolean }[]
  /** Of a checkpoint: its base model as its config.json names it, and that model's name on the hub where it has one. */
  readonly base?: { readonly decoderModelName: string; readonly hubName: string | undefined }
}

/**
 * Fetches a model from the hub into the shared cache, and verifies every file, those that were there included. Its files appear under the
 * snapshot's folder only when all of them are whole, `config.json` last, so a folder with that file is a complete model.
 *
 * @param name Name on the hub, such as `apple/CLaRa-7B-Instruct`.
 * @throws ClaraError when the hub refuses or cannot be reached, the files are not what it lists, or the cache cannot be written; the
 *   signal's reason when it aborts. What has arrived stays, and the next call goes on from there.
 */
export async function pullModel(name: string, options: PullOptions = {}): Promise<PulledModel> {
  const { revision = 'main', environment = process.env, signal, patience = defaultPatience } = options
  checkHubName(name)
  checkRevision(revision)
  const subfolder = checkSubfolder(options.subfolder)
  const settings = hubSettings(environment)
  const connection: Connection = { settings, patience, signal }
  const listing = await list(name, revision, subfolder, connection, environment)
  const selection = selectFiles(name, listing.files, subfolder)
  const cached = await openCachedModel(settings.cacheFolder, name)
  const task: Task = { name, revision, listing, cached, connection }

  const { index } = selection
  let files = [...selection.files]
  const fetched = new Set<string>()
  const ensure = async (file: HubFile, report: FileProgress) => {
    if (await ensureFile(task, file, report)) fetched.add(file.hash.hex)
  }
  if (index) {
    await ensure(index, () => undefined)
    files = [...files, ...(await shardsOf(name, index, cached.blob(index.hash.hex), listing.files))]
  }
  await checkRoom(task, files)
  const total = files.reduce((sum, { size }) => sum + size, 0)
  let before = 0
  // The small ones first: what is wrong with them shows before hours have passed.
  for (const file of files.toSorted((one, other) => one.size - other.size)) {
    const report: FileProgress = (phase, done) =>
      options.onProgress?.({ path: file.path, phase, done: before + done, total })
    await ensure(file, report)
    report('done', file.size)
    before += file.size
  }
  const last = files.filter(isConfig)
  for (const { path, hash } of [...files.filter((file) => !isConfig(file)), ...last]) {
    await cached.show(listing.commit, path, hash.hex)
  }
  await cached.setRevision(revision, listing.commit)

  const snapshot = cached.snapshot(listing.commit)
  const base = selection.kind === 'checkpoint' ? await baseOf(cached, last) : undefined
  return {
    name,
    revision,
    commit: listing.commit,
    folder: join(snapshot, subfolder ?? ''),
    kind: selection.kind,
    files: files.map(({ path, size, hash }) => ({ path, size, fetched: fetched.has(hash.hex) })),
    ...(base === undefined ? {} : { base }),
  }
}

const isConfig = ({ path }: HubFile): boolean => /(^|\/)config\.json$/.test(path)

function checkSubfolder(text: string | undefined): string | undefined {
  const subfolder = text?.replace(/^\.\/|\/+$/g, '')
  if (subfolder === undefined || subfolder === '' || subfolder === '.') return undefined
  if (isSafePath(subfolder)) return subfolder
  throw new ClaraError(`${JSON.stringify(text)} is no folder of a repository.`, {
    expected: 'a path within it, such as compression-16',
  })
}

async function list(
  name: string,
  revision: string,
  subfolder: string | undefined,
  connection: Connection,
  environment: Environment,
): Promise<Listing> {
  async function offline(problem: string, hint: string, cause?: unknown): Promise<ClaraError> {
    const folder = await findInCache(name, { revision, subfolder, environment })
    const known = folder === undefined ? '' : ` What was pulled earlier is in "${folder}".`
    return new ClaraError(problem, { hint: hint + known, cause })
  }
  if (connection.settings.offline) {
    throw await offline(`${name} was not fetched: HF_HUB_OFFLINE is set.`, 'Unset it to fetch.')
  }
  try {
    return await listModel(name, revision, connection)
  } catch (error) {
    if (!(error instanceof TransientError && error.unreachable)) throw error
    throw await offline(error.message, '', error)
  }
}

/** What all files of one pull have in common. */
interface Task {
  readonly name: string
  readonly revision: string
  readonly listing: Listing
  readonly cached: CachedModel
  readonly connection: Connection
}

type FileProgress = (phase: PullProgress['phase'], done: number) => void

/** Sees to it that the cache has the file's content, whole. @returns whether any of it had to be fetched. */
async function ensureFile(task: Task, file: HubFile, report: FileProgress): Promise<boolean> {
  const { name, revision, listing, cached, connection } = task
  const { settings, signal } = connection
  const { hash, size, path } = file
  const blob = cached.blob(hash.hex)
  const waiting = () => report('waiting', 0)
  return withFileErrors(blob, () =>
    whileLocked(cached.lock(hash.hex), signal, waiting, async () => {
      if (await isWhole(blob, size, hash, signal, (done) => report('checking', done))) return false
      const address = [name, 'resolve', listing.commit, ...path.split('/').map(encodeURIComponent)].join('/')
      const what = {
        file,
        url: `${settings.endpoint}/${address}`,
        subject: { name, revision, path },
        commit: listing.commit,
        partial: cached.partial(hash.hex),
        blob,
      }
      await download(what, connection, report)
      return true
    }),
  )
}

/** Refuses before the first byte what the disk cannot hold. */
async function checkRoom({ cached }: Task, files: readonly HubFile[]): Promise<void> {
  const missing = await Promise.all(
    files.map(async ({ size, hash }) => {
      const there = await Promise.all([cached.blob(hash.hex), cached.partial(hash.hex)].map(sizeOf))
      return Math.max(0, size - Math.max(...there))
    }),
  )
  const needed = missing.reduce((sum, bytes) => sum + bytes, 0)
  const { bavail, bsize } = await statfs(cached.folder)
  const free = bavail * bsize
  if (needed <= free) return
  throw new ClaraError(`The disk is too full for these files: "${cached.folder}".`, {
    expected: `${needed} bytes free`,
    received: `${free}`,
    hint: 'Free some space, or name a folder on another disk in HF_HUB_CACHE.',
  })
}

async function sizeOf(path: string): Promise<number> {
  const facts = await lstat(path).catch(() => undefined)
  return facts?.isFile() ? facts.size : 0
}

const checkpointConfig = z.looseObject({ decoder_model_name: z.string().min(1) })
const largestConfig = 4 << 20

async function baseOf(cached: CachedModel, configs: readonly HubFile[]): Promise<PulledModel['base']> {
  const [config] = configs
  if (config === undefined || config.size > largestConfig) return undefined
  const parsed = checkpointConfig.safeParse(await readJson(cached.blob(config.hash.hex)))
  if (!parsed.success) return undefined
  const decoderModelName = parsed.data.decoder_model_name
  return { decoderModelName, hubName: baseOnHub(decoderModelName) }
}

import { mkdir, readdir, rm, stat } from 'node:fs/promises'
import { homedir } from 'node:os'
import { basename, dirname, join } from 'node:path'
import { ClaraError } from '../errors.ts'
import type { DType, FileTensor, HostTensor } from '../graph/dtype.ts'
import { openSafetensors, type PlannedTensor, streamSafetensors } from './safetensors.ts'

// Tensors that were computed from a model once and are kept in a file, which sessions map. A file says from what it was made;
// one that was made from anything else, by another version of this layout, or that is damaged, is made anew.

/** Raised whenever the same source would give other bytes. */
const VERSION = '1'
const FORMAT = 'clara-ts cache'

const storedTypes: Readonly<Record<string, DType>> = { F32: 'float32', F16: 'float16', U8: 'uint8' }

/** Folder for such files: `CLARA_CACHE`, else `clara-ts` in `XDG_CACHE_HOME` or in `~/.cache`. */
export function cacheFolder(environment: Readonly<Record<string, string | undefined>> = process.env): string {
  const { CLARA_CACHE: own, XDG_CACHE_HOME: caches } = environment
  if (own) return own
  return join(caches || join(homedir(), '.cache'), 'clara-ts')
}

/** What a file must hold to be used. */
export interface TensorCachePlan {
  /** File to write, or to use where it is right. */
  readonly path: string
  /** Of what the tensors are made: all that decides their bytes (see `filesIdentity`). */
  readonly source: string
  /** In the order in which they are made. */
  readonly tensors: readonly PlannedTensor[]
  /** Told, in a sentence, why a file is written or replaced. */
  readonly onNotice?: ((message: string) => void) | undefined
}

/** What only the making of the tensors knows. */
export interface TensorContent {
  /** Kept in the file beside the tensors. */
  readonly facts: Readonly<Record<string, string>>
  readonly tensors: AsyncIterable<HostTensor>
}

export interface CachedTensors {
  readonly tensors: ReadonlyMap<string, FileTensor>
  readonly facts: ReadonlyMap<string, string>
}

/**
 * Opens a cache file, or makes it: under a temporary name first, so that an interrupted making leaves no file that could be
 * taken for a whole one.
 *
 * @throws ClaraError when the file cannot be written; whatever making the tensors throws.
 */
export async function cachedTensors(plan: TensorCachePlan, make: () => Promise<TensorContent>): Promise<CachedTensors> {
  const found = await openCache(plan)
  if (typeof found !== 'string') return found
  plan.onNotice?.(found)
  const folder = dirname(plan.path)
  await mkdir(folder, { recursive: true }).catch((cause: unknown) => {
    throw new ClaraError(`The folder "${folder}" for quantised weights cannot be made.`, {
      hint: 'Name another in CLARA_CACHE.',
      cause,
    })
  })
  await removeRemains(plan.path)
  const { facts, tensors } = await make()
  await streamSafetensors(plan.path, plan.tensors, tensors, {
    ...facts,
    format: FORMAT,
    version: VERSION,
    source: plan.source,
  })
  const made = await openCache(plan)
  if (typeof made !== 'string') return made
  throw new ClaraError(`"${plan.path}" was written and is not what it should be.`, { received: made })
}

/** The tensors of a cache file, or why it cannot be used. */
async function openCache({ path, source, tensors }: TensorCachePlan): Promise<CachedTensors | string> {
  const isThere = await stat(path).then(
    () => true,
    () => false,
  )
  if (!isThere) return `writing "${path}", which later starts will read`
  const again = (why: string) => `writing "${path}" again: ${why}`
  try {
    await using file = await openSafetensors(path)
    const { metadata } = file
    if (metadata.get('format') !== FORMAT) return again('it is no cache of ours')
    if (metadata.get('version') !== VERSION) return again('another version of this program wrote it')
    if (metadata.get('source') !== source) return again('the model it was made from has changed')
    const placed = new Map<string, FileTensor>()
    for (const { name, dtype, dims } of tensors) {
      const found = file.tensors.get(name)
      if (!found || storedTypes[found.storedType] !== dtype || found.dims.join() !== dims.join()) {
        return again(`it has no ${dtype} tensor '${name}' of [${dims.join(', ')}]`)
      }
      placed.set(name, { dtype, dims, file: path, offset: found.offset })
    }
    return { tensors: placed, facts: metadata }
  } catch (error) {
    if (!(error instanceof ClaraError)) throw error
    return again(error.message)
  }
}

/** Removes what makings of this file have left that were cut off; another program may be at one now. */
async function removeRemains(path: string): Promise<void> {
  const folder = dirname(path)
  for (const name of await readdir(folder)) {
    if (!name.startsWith(`.${basename(path)}.`) || !name.endsWith('.tmp')) continue
    const maker = Number(name.slice(basename(path).length + 2).split('.')[0])
    if (!isRunning(maker)) await rm(join(folder, name), { force: true })
  }
}

function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    // a process of somebody else's exists too
    return error instanceof Error && 'code' in error && error.code === 'EPERM'
  }
}

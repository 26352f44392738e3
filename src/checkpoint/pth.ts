/**
 * PyTorch checkpoints (`torch.save`, zip format): a pickle that describes tensors as views of storages, and one archive entry per
 * storage. Nothing in such a file can run: see `pickle.ts`.
 */
import { ClaraError } from '../errors.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { bytesPerElement } from '../graph/dtype.ts'
import { openPositioned } from './file.ts'
import type { PickleValue } from './pickle.ts'
import { readPickle } from './pickle.ts'
import type { StoredTensor } from './pth-tensor.ts'
import { isStoredTensor, locateTensor, readStoredTensor, torchRules } from './pth-tensor.ts'
import { readZipDirectory, readZipEntry } from './zip.ts'

/** A tensor of a checkpoint, read when asked for. */
export interface PthTensor {
  /** Name of the storage's type: Float, BFloat16, Half, Double, Long, Int, Short, Char, Byte or Bool. */
  readonly storedType: string
  readonly dims: readonly number[]
  /** The values in row-major order: BFloat16, Half and Double as float32, Short as int32, the others as they are. */
  read(): Promise<HostTensor>
}

/** Dictionaries of a checkpoint by their keys; list items are keyed "0", "1", … */
export type PthTree = ReadonlyMap<string, PthNode>
export type PthNode = PthTensor | PthTree | PthScalar
export type PthScalar = null | boolean | number | bigint | string

/** An open PyTorch checkpoint. */
export interface PthFile {
  readonly path: string
  /** Bytes of the file. */
  readonly size: number
  readonly root: PthTree
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** Tensors in the nesting of a checkpoint's dictionaries: `{ parameter: tensor }` or `{ adapter: { parameter: tensor } }`. */
export interface TensorRecord {
  readonly [name: string]: HostTensor | TensorRecord
}

const largestPickle = 16 << 20
const deepestTree = 8
const mostNodes = 1 << 20

/**
 * Opens a PyTorch checkpoint in the zip format (`torch.save` since 1.6) and places its tensors; their values are read on demand.
 *
 * @throws ClaraError when the file is not such a checkpoint, is truncated, names anything but tensors and plain data, or a tensor does not
 *   fit its storage.
 */
export async function openPth(path: string): Promise<PthFile> {
  const file = await openPositioned(path)
  try {
    const entries = await readZipDirectory(file)
    const pickleEntry = [...entries.values()].find(
      (entry) => entry.name === 'data.pkl' || /^[^/]+\/data\.pkl$/.test(entry.name),
    )
    if (pickleEntry === undefined) {
      throw new ClaraError(`"${path}" is a zip file, but no PyTorch checkpoint.`, {
        expected: 'an entry "data.pkl"',
        received: `${entries.size} entries`,
      })
    }
    const folder = pickleEntry.name.slice(0, -'data.pkl'.length)
    const order = entries.get(`${folder}byteorder`)
    if (order !== undefined && new TextDecoder().decode(await readZipEntry(file, order, 16)) !== 'little') {
      throw new ClaraError(`"${path}" was written on a big-endian machine, which cannot be read.`, {
        hint: 'Save it again on another machine.',
      })
    }
    const value = readPickle(await readZipEntry(file, pickleEntry, largestPickle), torchRules(path))
    let nodes = 0
    function tree(entriesOf: Iterable<readonly [PickleValue, PickleValue]>, depth: number): PthTree {
      // Shared and cyclic dictionaries make a small pickle an endless tree.
      if (depth > deepestTree) throw new ClaraError(`"${path}" nests dictionaries deeper than ${deepestTree}.`)
      const branch = new Map<string, PthNode>()
      for (const [key, item] of entriesOf) {
        if (++nodes > mostNodes) throw new ClaraError(`"${path}" holds more than ${mostNodes} values.`)
        if (typeof key !== 'string' && typeof key !== 'number')
          throw new ClaraError(`"${path}" holds a dictionary whose key is neither text nor number.`)
        branch.set(String(key), node(item, String(key), depth))
      }
      return branch
    }
    function node(item: PickleValue, name: string, depth: number): PthNode {
      if (item instanceof Map) return tree(item, depth + 1)
      if (Array.isArray(item)) return tree(item.entries(), depth + 1)
      if (isStoredTensor(item)) return tensor(item, name)
      if (item === null || typeof item !== 'object') return item
      throw new ClaraError(`"${path}" holds something that is neither tensor nor plain data at "${name}".`)
    }
    function tensor(stored: StoredTensor, name: string): PthTensor {
      const place = locateTensor(path, name, stored, entries.get(`${folder}data/${stored.storage.key}`))
      return { storedType: place.type.name, dims: stored.dims, read: () => readStoredTensor(file, place) }
    }
    const top = node(value, 'the top', 0)
    const root = top instanceof Map ? top : new Map([['0', top]])
    return { path, size: file.size, root, close: () => file.close(), [Symbol.asyncDispose]: () => file.close() }
  } catch (error) {
    await file.close()
    throw error
  }
}

/** Decoded bytes may exceed the file's, by widening and by tensors that share a storage, but not without limit. */
const mostExpansion = 16

/**
 * Reads every tensor of a PyTorch checkpoint into memory, in the nesting of its dictionaries. What is no tensor is left out.
 *
 * @throws ClaraError as `openPth`, and when the tensors together are far larger than the file.
 */
export async function readPth(path: string): Promise<TensorRecord> {
  await using file = await openPth(path)
  let budget = file.size * mostExpansion
  async function record(tree: PthTree): Promise<TensorRecord> {
    // A plain record without a prototype: "__proto__" is a key like any other.
    const tensors: Record<string, HostTensor | TensorRecord> = Object.create(null)
    for (const [name, item] of tree) {
      if (item instanceof Map) tensors[name] = await record(item)
      else if (isPthTensor(item)) {
        budget -= item.dims.reduce((product, dim) => product * dim, bytesPerElement.float32)
        if (budget < 0)
          throw new ClaraError(`The tensors of "${path}" are more than ${mostExpansion} times larger than the file.`)
        tensors[name] = await item.read()
      }
    }
    return tensors
  }
  return await record(file.root)
}

function isPthTensor(node: PthNode): node is PthTensor {
  return typeof node === 'object' && node !== null && 'read' in node
}

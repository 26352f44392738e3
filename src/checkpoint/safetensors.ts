import { readFile, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { ClaraError } from '../errors.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { elementCount } from '../graph/dtype.ts'
import type { PositionedFile } from './file.ts'
import { openPositioned } from './file.ts'
import { widenBfloat16, widenFloat16 } from './half.ts'
import type { SafetensorsTensor } from './safetensors-header.ts'
import { readSafetensorsHeader } from './safetensors-header.ts'

export type { SafetensorsTensor } from './safetensors-header.ts'
export type { SafetensorsWriteOptions } from './safetensors-write.ts'
export { type PlannedTensor, streamSafetensors, writeSafetensors } from './safetensors-write.ts'

export interface SafetensorsReadOptions {
  /** Hand out F16 tensors as float16 (raw bits) instead of float32. BF16 always becomes float32. Default false. */
  readonly keepFloat16?: boolean
}

/** An open safetensors file, or a folder of shards seen as one file. */
export interface SafetensorsFile {
  readonly path: string
  /** The files behind it: itself, or the shards. */
  readonly files: readonly string[]
  /** The file's own key-value pairs; of shards, all of them together. */
  readonly metadata: ReadonlyMap<string, string>
  readonly tensors: ReadonlyMap<string, SafetensorsTensor>
  /**
   * One tensor: F32, F16 and BF16 as float32, I64, I32, I8, U8 and BOOL as they are.
   *
   * @throws ClaraError when there is no such tensor or its type cannot be read.
   */
  read(name: string, options?: SafetensorsReadOptions): Promise<HostTensor>
  /** The tensor's bytes as stored, in pieces; a piece is valid until the next. */
  readRaw(name: string): AsyncGenerator<Uint8Array>
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/** The file that says in which shard each tensor lies. */
export const indexName = 'model.safetensors.index.json'
const largestIndex = 64 << 20

/**
 * Opens a safetensors file, or a folder that holds `model.safetensors` or the shards that `model.safetensors.index.json` names.
 *
 * Source: the safetensors format description, huggingface/safetensors README.
 *
 * @throws ClaraError when something is missing, truncated, contradicts itself, or a shard lies outside the folder.
 */
export async function openSafetensors(path: string): Promise<SafetensorsFile> {
  const isFolder = await stat(path).then(
    (facts) => facts.isDirectory(),
    () => false,
  )
  if (!isFolder) return openParts(path, [path])
  const index = await readIndex(join(path, indexName))
  if (index === undefined) return openParts(path, [join(path, 'model.safetensors')])
  const shards = [...new Set(index.values())].sort()
  const opened = await openParts(
    path,
    shards.map((shard) => join(path, shard)),
  )
  for (const [name, shard] of index) {
    if (opened.tensors.has(name)) continue
    await opened.close()
    throw new ClaraError(`Tensor "${name}" is missing from shard "${shard}" of "${path}".`, {
      hint: 'Download the shard again.',
    })
  }
  return opened
}

/** Tensor name to shard; undefined when the folder has no index. */
async function readIndex(path: string): Promise<ReadonlyMap<string, string> | undefined> {
  const size = await stat(path).then(
    (facts) => facts.size,
    () => undefined,
  )
  if (size === undefined) return undefined
  if (size > largestIndex)
    throw new ClaraError(`"${path}" is too large for an index.`, {
      expected: `at most ${largestIndex} bytes`,
      received: `${size}`,
    })
  const entries = weightMapOf(await readFile(path, 'utf8'))
  if (entries === undefined || entries.length === 0) {
    throw new ClaraError(`"${path}" is not an index of shards.`, {
      expected: 'a JSON object whose "weight_map" gives each tensor its file',
    })
  }
  const index = new Map<string, string>()
  for (const [name, shard] of entries) {
    if (typeof shard !== 'string' || shard !== basename(shard) || /^\.*$|[\\/\0]/.test(shard)) {
      throw new ClaraError(`"${path}" names a shard outside its folder for tensor "${name}".`, {
        expected: 'a file name without a folder',
        received: JSON.stringify(shard),
      })
    }
    index.set(name, shard)
  }
  return index
}

function weightMapOf(text: string): [string, unknown][] | undefined {
  try {
    const parsed: unknown = JSON.parse(text)
    if (typeof parsed !== 'object' || parsed === null || !('weight_map' in parsed)) return undefined
    const map = parsed.weight_map
    return typeof map === 'object' && map !== null ? Object.entries(map) : undefined
  } catch {
    return undefined
  }
}

async function openParts(path: string, paths: readonly string[]): Promise<SafetensorsFile> {
  const files: PositionedFile[] = []
  const close = async () => {
    await Promise.all(files.map((file) => file.close()))
  }
  try {
    const tensors = new Map<string, SafetensorsTensor>()
    const owners = new Map<string, PositionedFile>()
    const metadata = new Map<string, string>()
    for (const part of paths) {
      const file = await openPositioned(part)
      files.push(file)
      const header = await readSafetensorsHeader(file)
      for (const [key, value] of header.metadata) metadata.set(key, value)
      for (const [name, tensor] of header.tensors) {
        const other = owners.get(name)
        if (other !== undefined)
          throw new ClaraError(`Tensor "${name}" stands in two shards, "${other.path}" and "${part}".`)
        owners.set(name, file)
        tensors.set(name, tensor)
      }
    }
    return safetensorsFile(path, paths, metadata, tensors, owners, close)
  } catch (error) {
    await close()
    throw error
  }
}

function safetensorsFile(
  path: string,
  files: readonly string[],
  metadata: ReadonlyMap<string, string>,
  tensors: ReadonlyMap<string, SafetensorsTensor>,
  owners: ReadonlyMap<string, PositionedFile>,
  close: () => Promise<void>,
): SafetensorsFile {
  function find(name: string): { tensor: SafetensorsTensor; file: PositionedFile } {
    const tensor = tensors.get(name)
    const file = owners.get(name)
    if (tensor === undefined || file === undefined) {
      throw new ClaraError(`"${path}" has no tensor "${name}".`, { received: `${tensors.size} others` })
    }
    return { tensor, file }
  }
  return {
    path,
    files,
    metadata,
    tensors,
    async read(name, options = {}) {
      const { tensor, file } = find(name)
      return readTensor(file, name, tensor, options.keepFloat16 ?? false)
    },
    readRaw(name) {
      const { tensor, file } = find(name)
      return file.pieces(tensor.offset, tensor.bytes)
    },
    close,
    [Symbol.asyncDispose]: close,
  }
}

async function readTensor(
  file: PositionedFile,
  name: string,
  tensor: SafetensorsTensor,
  keepFloat16: boolean,
): Promise<HostTensor> {
  const { dims, offset, storedType } = tensor
  const count = elementCount(dims)
  async function filled<A extends ArrayBufferView>(data: A): Promise<A> {
    await file.readInto(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), offset)
    return data
  }
  async function widened(widen: (source: Uint16Array, target: Float32Array) => void): Promise<HostTensor> {
    const data = new Float32Array(count)
    let start = 0
    for await (const piece of file.pieces(offset, tensor.bytes, 2)) {
      const halves = new Uint16Array(piece.buffer, piece.byteOffset, piece.length / 2)
      widen(halves, data.subarray(start, start + halves.length))
      start += halves.length
    }
    return { dtype: 'float32', dims, data }
  }
  switch (storedType) {
    case 'F32':
      return { dtype: 'float32', dims, data: await filled(new Float32Array(count)) }
    case 'F16':
      return keepFloat16
        ? { dtype: 'float16', dims, data: await filled(new Uint16Array(count)) }
        : widened(widenFloat16)
    case 'BF16':
      return widened(widenBfloat16)
    case 'I64':
      return { dtype: 'int64', dims, data: await filled(new BigInt64Array(count)) }
    case 'I32':
      return { dtype: 'int32', dims, data: await filled(new Int32Array(count)) }
    case 'I8':
      return { dtype: 'int8', dims, data: await filled(new Int8Array(count)) }
    case 'U8':
      return { dtype: 'uint8', dims, data: await filled(new Uint8Array(count)) }
    case 'BOOL':
      return { dtype: 'bool', dims, data: await filled(new Uint8Array(count)) }
    default:
      throw new ClaraError(`Tensor "${name}" of "${file.path}" is stored in a type that cannot be read.`, {
        expected: 'one of F32, F16, BF16, I64, I32, I8, U8, BOOL',
        received: storedType,
      })
  }
}

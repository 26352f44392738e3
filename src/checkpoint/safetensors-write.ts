import { ClaraError } from '../errors.ts'
import type { DType, HostTensor } from '../graph/dtype.ts'
import { elementCount } from '../graph/dtype.ts'
import { writeFileAtomic } from './atomic.ts'
import { narrowToBfloat16, narrowToFloat16 } from './half.ts'

export interface SafetensorsWriteOptions {
  /** How float32 tensors are stored, rounded to nearest even; other types are stored as they are. Default `float32`. */
  readonly float?: 'float32' | 'float16' | 'bfloat16'
}

/** A float32 tensor that is read when its turn comes, so that a model larger than the memory can be written. */
export interface TensorSource {
  readonly dims: readonly number[]
  readonly read: () => Promise<HostTensor>
}

const storedTypes = {
  float32: 'F32',
  float16: 'F16',
  bfloat16: 'BF16',
  int64: 'I64',
  int32: 'I32',
  int8: 'I8',
  uint8: 'U8',
  bool: 'BOOL',
} as const
const elementBytes: Readonly<Record<string, number>> = {
  F32: 4,
  F16: 2,
  BF16: 2,
  I64: 8,
  I32: 4,
  I8: 1,
  U8: 1,
  BOOL: 1,
}

/** Elements converted at a time when float32 is narrowed. */
const pieceElements = 1 << 20

/**
 * Writes tensors as one safetensors file, atomically (see `writeFileAtomic`). The same tensors give the same bytes, whatever their order.
 *
 * @param metadata String pairs kept in the file's head.
 * @throws ClaraError when a tensor's data does not fit its shape, a name is reserved, or the file cannot be written.
 */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, HostTensor | TensorSource>,
  metadata: Readonly<Record<string, string>> = {},
  options: SafetensorsWriteOptions = {},
): Promise<void> {
  const entries = [...tensors].map(([name, tensor]) => {
    const dtype = 'read' in tensor ? 'float32' : tensor.dtype
    return { ...entryOf({ name, dtype, dims: tensor.dims }, options), tensor }
  })
  // Widest elements first keeps every tensor aligned to its own element size.
  entries.sort((a, b) => b.width - a.width || (a.name < b.name ? -1 : 1))
  const inTurn = async function* () {
    for (const { tensor } of entries) yield 'read' in tensor ? await tensor.read() : tensor
  }
  await writeFileAtomic(path, pieces(entries, inTurn(), metadata))
}

/** A tensor that is going to be written. */
export interface PlannedTensor {
  readonly name: string
  readonly dtype: DType
  readonly dims: readonly number[]
}

/**
 * Writes tensors that are not in memory together as one safetensors file, atomically.
 *
 * @param plan All tensors, in the order in which they come and are stored.
 * @param tensors Each is dropped once it is written.
 */
export async function streamSafetensors(
  path: string,
  plan: readonly PlannedTensor[],
  tensors: AsyncIterable<HostTensor>,
  metadata: Readonly<Record<string, string>> = {},
  options: SafetensorsWriteOptions = {},
): Promise<void> {
  const entries = plan.map((planned) => entryOf(planned, options))
  await writeFileAtomic(path, pieces(entries, tensors, metadata))
}

interface Entry {
  readonly name: string
  readonly type: string
  readonly dims: readonly number[]
  readonly width: number
}

function entryOf({ name, dtype, dims }: PlannedTensor, { float = 'float32' }: SafetensorsWriteOptions): Entry {
  if (name === '__metadata__')
    throw new ClaraError('A tensor cannot be named "__metadata__": safetensors keeps that name for itself.')
  const type = storedTypes[dtype === 'float32' ? float : dtype]
  return { name, type, dims, width: elementBytes[type] ?? 1 }
}

async function* pieces(
  entries: readonly Entry[],
  tensors: AsyncIterable<HostTensor>,
  metadata: Readonly<Record<string, string>>,
): AsyncGenerator<Uint8Array> {
  yield encodedHeader(entries, metadata)
  let next = 0
  for await (const { dtype, data } of tensors) {
    const entry = entries[next++]
    if (!entry) throw new RangeError('More tensors came than were planned.')
    if (data.length !== elementCount(entry.dims)) {
      throw new ClaraError(`Tensor "${entry.name}" does not fit its shape [${entry.dims}].`, {
        expected: `${elementCount(entry.dims)} values`,
        received: `${data.length}`,
      })
    }
    if (dtype === 'float32' && entry.type !== 'F32' && data instanceof Float32Array) {
      const narrow = entry.type === 'F16' ? narrowToFloat16 : narrowToBfloat16
      for (let start = 0; start < data.length; start += pieceElements) {
        yield new Uint8Array(narrow(data.subarray(start, start + pieceElements)).buffer)
      }
    } else {
      yield new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    }
  }
  if (next < entries.length) throw new RangeError(`The tensor "${entries[next]?.name}" was planned and did not come.`)
}

function encodedHeader(entries: readonly Entry[], metadata: Readonly<Record<string, string>>): Uint8Array {
  const described: [string, unknown][] = []
  if (Object.keys(metadata).length > 0) described.push(['__metadata__', metadata])
  let start = 0
  for (const { name, dims, type, width } of entries) {
    const end = start + elementCount(dims) * width
    described.push([name, { dtype: type, shape: dims, data_offsets: [start, end] }])
    start = end
  }
  // fromEntries defines keys, so that even "__proto__" is an ordinary name.
  const json = new TextEncoder().encode(JSON.stringify(Object.fromEntries(described)))
  const padded = Math.ceil(json.length / 8) * 8
  const header = new Uint8Array(8 + padded).fill(0x20)
  new DataView(header.buffer).setBigUint64(0, BigInt(padded), true)
  header.set(json, 8)
  return header
}

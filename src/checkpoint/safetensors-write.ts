import { ClaraError } from '../errors.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { elementCount } from '../graph/dtype.ts'
import { writeFileAtomic } from './atomic.ts'
import { narrowToBfloat16, narrowToFloat16 } from './half.ts'

export interface SafetensorsWriteOptions {
  /** How float32 tensors are stored, rounded to nearest even; other types are stored as they are. Default `float32`. */
  readonly float?: 'float32' | 'float16' | 'bfloat16'
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
  tensors: ReadonlyMap<string, HostTensor>,
  metadata: Readonly<Record<string, string>> = {},
  options: SafetensorsWriteOptions = {},
): Promise<void> {
  const entries = [...tensors].map(([name, tensor]) => {
    if (name === '__metadata__')
      throw new ClaraError('A tensor cannot be named "__metadata__": safetensors keeps that name for itself.')
    if (tensor.data.length !== elementCount(tensor.dims)) {
      throw new ClaraError(`Tensor "${name}" does not fit its shape [${tensor.dims}].`, {
        expected: `${elementCount(tensor.dims)} values`,
        received: `${tensor.data.length}`,
      })
    }
    const type = storedTypes[tensor.dtype === 'float32' ? (options.float ?? 'float32') : tensor.dtype]
    return { name, tensor, type, width: elementBytes[type] ?? 1 }
  })
  // Widest elements first keeps every tensor aligned to its own element size.
  entries.sort((a, b) => b.width - a.width || (a.name < b.name ? -1 : 1))
  await writeFileAtomic(path, pieces(entries, metadata))
}

interface Entry {
  readonly name: string
  readonly tensor: HostTensor
  readonly type: string
  readonly width: number
}

function* pieces(entries: readonly Entry[], metadata: Readonly<Record<string, string>>): Generator<Uint8Array> {
  yield encodedHeader(entries, metadata)
  for (const { tensor, type } of entries) {
    const { data } = tensor
    if (tensor.dtype === 'float32' && type !== 'F32' && data instanceof Float32Array) {
      const narrow = type === 'F16' ? narrowToFloat16 : narrowToBfloat16
      for (let start = 0; start < data.length; start += pieceElements) {
        yield new Uint8Array(narrow(data.subarray(start, start + pieceElements)).buffer)
      }
    } else {
      yield new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
    }
  }
}

function encodedHeader(entries: readonly Entry[], metadata: Readonly<Record<string, string>>): Uint8Array {
  const described: [string, unknown][] = []
  if (Object.keys(metadata).length > 0) described.push(['__metadata__', metadata])
  let start = 0
  for (const { name, tensor, type, width } of entries) {
    const end = start + tensor.data.length * width
    described.push([name, { dtype: type, shape: tensor.dims, data_offsets: [start, end] }])
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

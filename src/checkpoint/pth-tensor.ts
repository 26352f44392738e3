/** What a PyTorch pickle says of a tensor: a storage, and how shape, strides and offset look into it. */
import { ClaraError } from '../errors.ts'
import type { DType, HostTensor, TypedArray } from '../graph/dtype.ts'
import { elementCount } from '../graph/dtype.ts'
import type { PositionedFile } from './file.ts'
import { widenBfloat16, widenFloat16 } from './half.ts'
import type { PickleFunction, PickleRules, PickleValue } from './pickle.ts'
import { isFunction } from './pickle.ts'
import type { ZipEntry } from './zip.ts'
import { storedOffset } from './zip.ts'

/** How a storage's elements lie in the file and what they become. */
interface StorageType {
  readonly name: string
  readonly bytes: number
  readonly dtype: DType
  readonly decode: (buffer: ArrayBuffer) => TypedArray
}

interface Storage {
  readonly kind: 'storage'
  readonly type: StorageType
  readonly key: string
  readonly elements: number
}

/** A tensor as pickled. */
export interface StoredTensor {
  readonly kind: 'tensor'
  readonly storage: Storage
  /** In elements, as the strides. */
  readonly offset: number
  readonly dims: readonly number[]
  readonly strides: readonly number[]
}

/** A tensor whose view was checked against its storage. */
export interface PlacedTensor {
  readonly type: StorageType
  readonly dims: readonly number[]
  readonly strides: readonly number[]
  /** Bytes from the storage's start. */
  readonly start: number
  /** Elements from the first to the last that the view touches. */
  readonly span: number
  readonly entry: ZipEntry
}

const storageTypes: readonly StorageType[] = [
  { name: 'Float', bytes: 4, dtype: 'float32', decode: (buffer) => new Float32Array(buffer) },
  { name: 'BFloat16', bytes: 2, dtype: 'float32', decode: (buffer) => widenBfloat16(new Uint16Array(buffer)) },
  { name: 'Half', bytes: 2, dtype: 'float32', decode: (buffer) => widenFloat16(new Uint16Array(buffer)) },
  { name: 'Double', bytes: 8, dtype: 'float32', decode: (buffer) => Float32Array.from(new Float64Array(buffer)) },
  { name: 'Long', bytes: 8, dtype: 'int64', decode: (buffer) => new BigInt64Array(buffer) },
  { name: 'Int', bytes: 4, dtype: 'int32', decode: (buffer) => new Int32Array(buffer) },
  { name: 'Short', bytes: 2, dtype: 'int32', decode: (buffer) => Int32Array.from(new Int16Array(buffer)) },
  { name: 'Char', bytes: 1, dtype: 'int8', decode: (buffer) => new Int8Array(buffer) },
  { name: 'Byte', bytes: 1, dtype: 'uint8', decode: (buffer) => new Uint8Array(buffer) },
  { name: 'Bool', bytes: 1, dtype: 'bool', decode: (buffer) => new Uint8Array(buffer) },
]

const storageTypesByGlobal = new Map(storageTypes.map((type) => [`torch.${type.name}Storage`, type]))

/** The globals that a PyTorch checkpoint of tensors needs, and how its storages are named. */
export function torchRules(source: string): PickleRules {
  function wrong(what: string): ClaraError {
    return new ClaraError(`"${source}" is damaged: ${what}.`, { hint: 'Download or copy it again.' })
  }
  const functions: readonly PickleFunction[] = [
    ...[...storageTypesByGlobal.keys()].map((name) => ({
      kind: 'function' as const,
      name,
      call: () => {
        throw wrong(`it calls "${name}", which only names a type`)
      },
    })),
    {
      kind: 'function',
      name: 'torch._utils._rebuild_tensor_v2',
      call([storage, offset, dims, strides, , , bits]): PickleValue {
        if (
          !isStorage(storage) ||
          !isNatural(offset) ||
          !isNaturals(dims) ||
          !isNaturals(strides) ||
          dims.length !== strides.length
        ) {
          throw wrong('it describes a tensor that makes no sense')
        }
        // views that PyTorch negates or conjugates only when it reads them
        if (bits instanceof Map && [...bits.values()].some((bit) => bit !== false)) {
          throw new ClaraError(`"${source}" holds a tensor whose values are still to be negated or conjugated.`, {
            hint: 'Save it again as a copy (`.resolve_neg().resolve_conj()`).',
          })
        }
        const tensor: StoredTensor = { kind: 'tensor', storage, offset, dims, strides }
        return tensor
      },
    },
    {
      kind: 'function',
      name: 'torch._utils._rebuild_parameter',
      call([tensor]): PickleValue {
        if (!isStoredTensor(tensor)) throw wrong('it describes a parameter without a tensor')
        return tensor
      },
    },
    {
      kind: 'function',
      name: 'collections.OrderedDict',
      call([pairs = []]): PickleValue {
        if (!Array.isArray(pairs)) throw wrong('an ordered dictionary has no list of pairs')
        return new Map(
          pairs.map((pair) => {
            if (!Array.isArray(pair) || pair.length !== 2)
              throw wrong('an ordered dictionary has an item that is no pair')
            return [pair[0] ?? null, pair[1] ?? null] as const
          }),
        )
      },
    },
  ]
  return {
    source,
    globals: new Map(functions.map((item) => [item.name, item])),
    persistent(id) {
      const [kind, type, key, , elements] = Array.isArray(id) ? id : []
      const found = isFunction(type) ? storageTypesByGlobal.get(type.name) : undefined
      if (kind !== 'storage' || found === undefined || typeof key !== 'string' || !isNatural(elements)) {
        throw wrong('it refers to something that is no storage')
      }
      const storage: Storage = { kind: 'storage', type: found, key, elements }
      return storage
    },
  }
}

/**
 * Checks that a tensor lies inside its storage and the storage inside the file, before any memory is taken.
 *
 * @param entry The storage's entry in the archive.
 */
export function locateTensor(
  path: string,
  name: string,
  tensor: StoredTensor,
  entry: ZipEntry | undefined,
): PlacedTensor {
  const { storage, dims, strides, offset } = tensor
  const { type } = storage
  if (entry === undefined) {
    throw new ClaraError(`"${path}" lacks the storage "${storage.key}" of tensor "${name}".`, {
      hint: 'Download or copy it again.',
    })
  }
  const elements = elementCount(dims)
  const span = elements === 0 ? 0 : dims.reduce((last, dim, axis) => last + (dim - 1) * (strides[axis] ?? 0), 1)
  const held = Math.min(storage.elements, Math.floor(entry.size / type.bytes))
  // A stride of 0 repeats elements: a few bytes could ask for any amount of memory.
  if (!(offset + span <= held && elements <= held)) {
    throw new ClaraError(`Tensor "${name}" of "${path}" does not fit its storage.`, {
      expected: `at most ${held} elements`,
      received: `shape [${dims}], strides [${strides}], offset ${offset}`,
      hint: 'Download it again; an expanded tensor must be saved as a copy (`.contiguous()`).',
    })
  }
  return { type, dims, strides, start: offset * type.bytes, span, entry }
}

/** Reads the part of the storage that the view touches and puts it in row-major order. */
export async function readStoredTensor(file: PositionedFile, tensor: PlacedTensor): Promise<HostTensor> {
  const { type, dims, strides } = tensor
  const start = (await storedOffset(file, tensor.entry)) + tensor.start
  const bytes = await file.read(start, tensor.span * type.bytes)
  const inOrder = isContiguous(dims, strides) ? bytes : gathered(bytes, type.bytes, dims, strides)
  return { dtype: type.dtype, dims, data: type.decode(inOrder.buffer) }
}

function isContiguous(dims: readonly number[], strides: readonly number[]): boolean {
  let expected = 1
  for (let axis = dims.length - 1; axis >= 0; axis--) {
    const dim = dims[axis] ?? 1
    if (dim !== 1 && strides[axis] !== expected) return false
    expected *= dim
  }
  return true
}

/** The elements of a strided view, one after the other. */
function gathered(
  source: Uint8Array,
  width: number,
  dims: readonly number[],
  strides: readonly number[],
): Uint8Array<ArrayBuffer> {
  const target = new Uint8Array(elementCount(dims) * width)
  const index = dims.map(() => 0)
  let at = 0
  for (let written = 0; written < target.length; written += width) {
    for (let byte = 0; byte < width; byte++) target[written + byte] = source[at * width + byte] ?? 0
    for (let axis = dims.length - 1; axis >= 0; axis--) {
      const next = (index[axis] ?? 0) + 1
      const stride = strides[axis] ?? 0
      at += stride
      index[axis] = next
      if (next < (dims[axis] ?? 1)) break
      at -= next * stride
      index[axis] = 0
    }
  }
  return target
}

export function isStoredTensor(value: PickleValue | undefined): value is StoredTensor {
  return typeof value === 'object' && value !== null && 'kind' in value && value.kind === 'tensor'
}

function isStorage(value: PickleValue | undefined): value is Storage {
  return typeof value === 'object' && value !== null && 'kind' in value && value.kind === 'storage'
}

function isNatural(value: PickleValue | undefined): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0
}

function isNaturals(value: PickleValue | undefined): value is number[] {
  return Array.isArray(value) && value.length <= 64 && value.every(isNatural)
}

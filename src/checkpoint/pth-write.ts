/** PyTorch checkpoints as `torch.save` writes them; `torch.load(…, weights_only=True)` reads them. */
import { basename, extname } from 'node:path'
import { ClaraError } from '../errors.ts'
import { elementCount, type HostTensor, type TypedArray } from '../graph/dtype.ts'
import { writeFileAtomic } from './atomic.ts'
import { narrowToBfloat16 } from './half.ts'
import { type Pickled, type PickledOnce, writePickle } from './pickle-write.ts'
import { type ZipSource, zipArchive } from './zip-write.ts'

/** What to write: float32 tensors by name, one dictionary deep or two. */
export type PthContent = ReadonlyMap<string, HostTensor | ReadonlyMap<string, HostTensor>>

export interface PthWriteOptions {
  /** How numbers are stored, rounded to nearest even. Default `float32`. */
  readonly float?: 'float32' | 'bfloat16'
  /** Write the tensors as `torch.nn.Parameter`; by name, whether it takes gradients. Default: plain tensors. */
  readonly parameters?: (name: string) => boolean
}

/** Elements converted at a time when float32 is narrowed. */
const pieceElements = 1 << 20

const global = (module: string, text: string): PickledOnce => ({ kind: 'once', module, text })
const rebuildTensor = global('torch._utils', '_rebuild_tensor_v2')
const rebuildParameter = global('torch._utils', '_rebuild_parameter')
const orderedDictionary = global('collections', 'OrderedDict')
const storageTypes = { float32: global('torch', 'FloatStorage'), bfloat16: global('torch', 'BFloat16Storage') }
const storageWord: PickledOnce = { kind: 'once', text: 'storage' }
const device: PickledOnce = { kind: 'once', text: 'cpu' }

const tuple = (...items: readonly Pickled[]): Pickled => ({ kind: 'tuple', items })
const call = (callee: PickledOnce, ...parameters: readonly Pickled[]): Pickled => ({ kind: 'call', callee, parameters })

/**
 * Writes a PyTorch checkpoint (zip format), atomically (see `writeFileAtomic`). The same tensors in the same order give the same bytes.
 *
 * @throws ClaraError when a tensor is not float32 or does not fit its shape, or the file would be larger than 4 GiB.
 */
export async function writePth(path: string, content: PthContent, options: PthWriteOptions = {}): Promise<void> {
  const { float = 'float32', parameters } = options
  // tensors on the same array share its storage
  const storages = new Map<TypedArray, PickledOnce>()
  function tensor(name: string, value: HostTensor): Pickled {
    if (value.dtype !== 'float32' || value.data.length !== elementCount(value.dims)) {
      throw new ClaraError(`Tensor "${name}" cannot be written to "${path}".`, {
        expected: `${elementCount(value.dims)} float32 numbers, which the shape [${value.dims}] holds`,
        received: `${value.data.length} of type ${value.dtype}`,
      })
    }
    const key = storages.get(value.data) ?? { kind: 'once', text: String(storages.size) }
    storages.set(value.data, key)
    const storage = tuple(storageWord, storageTypes[float], key, device, value.data.length)
    const hooks = call(orderedDictionary)
    const plain = call(
      rebuildTensor,
      { kind: 'persistent', id: storage },
      0,
      tuple(...value.dims),
      tuple(...contiguousStrides(value.dims)),
      false,
      hooks,
    )
    return parameters ? call(rebuildParameter, plain, parameters(name), call(orderedDictionary)) : plain
  }
  function tree(entries: PthContent): Pickled {
    const items = [...entries].map(([name, item]) => [name, 'dims' in item ? tensor(name, item) : tree(item)] as const)
    return { kind: 'dictionary', items }
  }
  const pickle = writePickle(tree(content))
  const folder = basename(path, extname(path))
  const whole = (name: string, bytes: Uint8Array): ZipSource => ({
    name: `${folder}/${name}`,
    size: bytes.length,
    pieces: () => [bytes],
  })
  const text = (name: string, line: string) => whole(name, new TextEncoder().encode(line))
  await writeFileAtomic(
    path,
    zipArchive([
      whole('data.pkl', pickle),
      text('.format_version', '1'),
      text('.storage_alignment', '64'),
      text('byteorder', 'little'),
      ...[...storages].map(([data, key]) => ({
        name: `${folder}/data/${key.text}`,
        size: data.length * (float === 'float32' ? 4 : 2),
        pieces: () => storedPieces(data as Float32Array, float),
      })),
      text('version', '3\n'),
    ]),
  )
}

function* storedPieces(data: Float32Array, float: 'float32' | 'bfloat16'): Generator<Uint8Array> {
  for (let start = 0; start < data.length; start += pieceElements) {
    const piece = data.subarray(start, start + pieceElements)
    if (float === 'float32') yield new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength)
    else yield new Uint8Array(narrowToBfloat16(piece).buffer)
  }
}

function contiguousStrides(dims: readonly number[]): number[] {
  const strides: number[] = []
  let stride = 1
  for (const dim of dims.toReversed()) {
    strides.unshift(stride)
    stride *= Math.max(1, dim)
  }
  return strides
}

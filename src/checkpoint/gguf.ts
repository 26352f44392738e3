import { ClaraError } from '../errors.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { elementCount } from '../graph/dtype.ts'
import type { PositionedFile } from './file.ts'
import { openPositioned } from './file.ts'
import { blockFormats } from './ggml-blocks.ts'
import type { GgufTensorRecord } from './gguf-header.ts'
import { damaged, readGgufHeader } from './gguf-header.ts'

/** Where a tensor of a GGUF file lies and how it is stored. */
export interface GgufTensor {
  /** Name of the block format: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q4_K or Q6_K; `type N` for one that this reader does not know. */
  readonly ggmlType: string
  /** Row-major, outermost first: the file's own order reversed. */
  readonly dims: readonly number[]
  /** From the start of the file. */
  readonly offset: number
  /** Bytes in the file; 0 for an unknown type. */
  readonly bytes: number
}

/** An open GGUF file. The head is in memory, tensors are read when asked for. */
export interface GgufFile {
  readonly path: string
  readonly version: number
  /** Keys as in the file; arrays are ordinary arrays. */
  readonly metadata: ReadonlyMap<string, unknown>
  readonly tensors: ReadonlyMap<string, GgufTensor>
  /**
   * One tensor dequantised to float32.
   *
   * @throws ClaraError when there is no such tensor or its type is not known.
   */
  read(name: string): Promise<HostTensor>
  /** The tensor's bytes as stored, in pieces; a piece is valid until the next. */
  readRaw(name: string): AsyncGenerator<Uint8Array>
  close(): Promise<void>
  [Symbol.asyncDispose](): Promise<void>
}

/**
 * Opens a GGUF file (versions 2 and 3, little-endian) and checks its head: counts, lengths, dimensions, alignment, and that every
 * tensor lies inside the file.
 *
 * Source: the GGUF specification, ggml `docs/gguf.md`.
 *
 * @throws ClaraError when the file is missing, not a GGUF, truncated or contradicts itself.
 */
export async function openGguf(path: string): Promise<GgufFile> {
  const file = await openPositioned(path)
  try {
    const header = await readGgufHeader(file)
    const tensors = placeTensors(file, header.tensors, dataStart(path, header.metadata, header.end))
    return ggufFile(file, header.version, header.metadata, tensors)
  } catch (error) {
    await file.close()
    throw error
  }
}

interface DataSection {
  readonly start: number
  readonly alignment: number
}

function dataStart(path: string, metadata: ReadonlyMap<string, unknown>, end: number): DataSection {
  const alignment = metadata.get('general.alignment') ?? 32
  const fits = typeof alignment === 'number' && Number.isInteger(alignment) && alignment >= 1 && alignment <= 1 << 20
  if (!fits || (alignment & (alignment - 1)) !== 0)
    throw damaged(path, `its alignment is ${String(alignment)}, not a power of two`)
  return { start: Math.ceil(end / alignment) * alignment, alignment }
}

function placeTensors(
  file: PositionedFile,
  records: readonly GgufTensorRecord[],
  section: DataSection,
): ReadonlyMap<string, GgufTensor> {
  const tensors = new Map<string, GgufTensor>()
  for (const record of records) {
    if (tensors.has(record.name)) throw damaged(file.path, `tensor "${record.name}" stands there twice`)
    tensors.set(record.name, placeTensor(file, record, section))
  }
  return tensors
}

function placeTensor(file: PositionedFile, record: GgufTensorRecord, section: DataSection): GgufTensor {
  const { name } = record
  const dims = record.dims.toReversed()
  const elements = elementCount(dims)
  if (!Number.isSafeInteger(elements) || dims.includes(0))
    throw damaged(file.path, `tensor "${name}" has the impossible shape [${dims}]`)
  if (record.offset % section.alignment !== 0) {
    throw damaged(file.path, `tensor "${name}" starts at ${record.offset}, not at a multiple of ${section.alignment}`)
  }
  const offset = section.start + record.offset
  const format = blockFormats.get(record.type)
  // A type from the future must not hide the tensors beside it: reading this one is the error.
  if (format === undefined) return { ggmlType: `type ${record.type}`, dims, offset, bytes: 0 }
  if ((record.dims[0] ?? 1) % format.elements !== 0) {
    throw damaged(
      file.path,
      `the rows of tensor "${name}", ${record.dims[0] ?? 1} long, are no multiple of the ${format.elements} elements of a ${format.name} block`,
    )
  }
  const bytes = (elements / format.elements) * format.bytes
  if (offset + bytes > file.size) {
    throw new ClaraError(`"${file.path}" is truncated: tensor "${name}" reaches beyond its end.`, {
      expected: `at least ${offset + bytes} bytes`,
      received: `${file.size}`,
      hint: 'Download or copy it again.',
    })
  }
  return { ggmlType: format.name, dims, offset, bytes }
}

const formatsByName = new Map([...blockFormats.values()].map((format) => [format.name, format]))

function ggufFile(
  file: PositionedFile,
  version: number,
  metadata: ReadonlyMap<string, unknown>,
  tensors: ReadonlyMap<string, GgufTensor>,
): GgufFile {
  function find(name: string): GgufTensor {
    const tensor = tensors.get(name)
    if (tensor === undefined)
      throw new ClaraError(`"${file.path}" has no tensor "${name}".`, { received: `${tensors.size} others` })
    return tensor
  }
  async function read(name: string): Promise<HostTensor> {
    const tensor = find(name)
    const format = formatsByName.get(tensor.ggmlType)
    if (format === undefined) {
      throw new ClaraError(`Tensor "${name}" of "${file.path}" is stored in a format that cannot be read.`, {
        expected: `one of ${[...formatsByName.keys()].join(', ')}`,
        received: tensor.ggmlType,
        hint: 'Quantise the model to one of these.',
      })
    }
    const data = new Float32Array(elementCount(tensor.dims))
    let start = 0
    for await (const piece of file.pieces(tensor.offset, tensor.bytes, format.bytes)) {
      const blocks = piece.length / format.bytes
      format.dequantise(piece, blocks, data, start)
      start += blocks * format.elements
    }
    return { dtype: 'float32', dims: tensor.dims, data }
  }
  return {
    path: file.path,
    version,
    metadata,
    tensors,
    read,
    readRaw(name) {
      const tensor = find(name)
      return file.pieces(tensor.offset, tensor.bytes)
    },
    close: () => file.close(),
    [Symbol.asyncDispose]: () => file.close(),
  }
}

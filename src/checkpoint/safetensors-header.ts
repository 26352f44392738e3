/** The head of a safetensors file: eight bytes of length, then JSON that names each tensor's type, shape and place. */
import { ClaraError } from '../errors.ts'
import type { PositionedFile } from './file.ts'

/** The format's own limit on its head. */
const largestHeader = 100_000_000

/** Bytes of one element by type name. Types that cannot be read are here too, so that a file holding one still opens. */
const elementBytes: Readonly<Record<string, number>> = {
  BOOL: 1,
  U8: 1,
  I8: 1,
  F8_E4M3: 1,
  F8_E5M2: 1,
  I16: 2,
  U16: 2,
  F16: 2,
  BF16: 2,
  I32: 4,
  U32: 4,
  F32: 4,
  I64: 8,
  U64: 8,
  F64: 8,
}

/** Where a tensor of a safetensors file lies and how it is stored. */
export interface SafetensorsTensor {
  /** F32, F16, BF16, I64, I32, I8, U8, BOOL, or a type that cannot be read. */
  readonly storedType: string
  readonly dims: readonly number[]
  /** From the start of the file. */
  readonly offset: number
  readonly bytes: number
}

export interface SafetensorsHeader {
  readonly metadata: ReadonlyMap<string, string>
  readonly tensors: ReadonlyMap<string, SafetensorsTensor>
}

/**
 * Reads and checks the head of a safetensors file. As the format demands, the tensors must fill the rest of the file without gaps or overlaps.
 *
 * @throws ClaraError when the file is not safetensors, is truncated, or its head contradicts itself.
 */
export async function readSafetensorsHeader(file: PositionedFile): Promise<SafetensorsHeader> {
  if (file.size < 8) throw notSafetensors(file.path, `a file of ${file.size} bytes`)
  const lengthBytes = await file.read(0, 8)
  const length = new DataView(lengthBytes.buffer).getBigUint64(0, true)
  if (length > BigInt(largestHeader))
    throw notSafetensors(file.path, `a head of ${length} bytes, where at most ${largestHeader} are allowed`)
  const headerBytes = Number(length)
  if (8 + headerBytes > file.size) {
    throw new ClaraError(`"${file.path}" is no safetensors file, or it is truncated inside its head.`, {
      expected: `at least ${8 + headerBytes} bytes`,
      received: `${file.size}`,
      hint: 'Download or copy it again.',
    })
  }
  const header = parseHeader(file.path, await file.read(8, headerBytes))
  const metadata = new Map<string, string>()
  const tensors = new Map<string, SafetensorsTensor>()
  for (const [name, entry] of Object.entries(header)) {
    if (name !== '__metadata__') tensors.set(name, placeTensor(file, name, entry, 8 + headerBytes))
    else if (isRecord(entry)) for (const [key, value] of Object.entries(entry)) metadata.set(key, String(value))
  }
  checkCover(file, tensors, 8 + headerBytes)
  return { metadata, tensors }
}

function parseHeader(path: string, bytes: Uint8Array): Record<string, unknown> {
  let header: unknown
  try {
    header = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes))
  } catch (cause) {
    throw notSafetensors(path, 'a head that is not JSON', cause)
  }
  if (!isRecord(header)) throw notSafetensors(path, 'a head that is no JSON object')
  return header
}

function placeTensor(file: PositionedFile, name: string, entry: unknown, dataStart: number): SafetensorsTensor {
  if (!isRecord(entry)) throw damagedTensor(file, name, 'has no description')
  const { dtype, shape, data_offsets: offsets } = entry
  const size = typeof dtype === 'string' && Object.hasOwn(elementBytes, dtype) ? elementBytes[dtype] : undefined
  if (typeof dtype !== 'string' || size === undefined)
    throw damagedTensor(file, name, `has the unknown type ${JSON.stringify(dtype)}`)
  if (!isNaturals(shape)) throw damagedTensor(file, name, 'has no proper shape')
  if (!isNaturals(offsets) || offsets.length !== 2) throw damagedTensor(file, name, 'has no proper offsets')
  const [start = 0, end = 0] = offsets
  const bytes = shape.reduce((product, dim) => product * dim, size)
  if (end - start !== bytes)
    throw damagedTensor(
      file,
      name,
      `of shape [${shape}] and type ${dtype} takes ${bytes} bytes, its offsets span ${end - start}`,
    )
  if (dataStart + end > file.size) {
    throw new ClaraError(`"${file.path}" is truncated: tensor "${name}" reaches beyond its end.`, {
      expected: `at least ${dataStart + end} bytes`,
      received: `${file.size}`,
      hint: 'Download or copy it again.',
    })
  }
  return { storedType: dtype, dims: shape, offset: dataStart + start, bytes }
}

function checkCover(file: PositionedFile, tensors: ReadonlyMap<string, SafetensorsTensor>, dataStart: number): void {
  const inOrder = [...tensors].sort(([, a], [, b]) => a.offset - b.offset || a.bytes - b.bytes)
  let end = dataStart
  for (const [name, tensor] of inOrder) {
    if (tensor.offset !== end)
      throw damagedTensor(
        file,
        name,
        `starts at byte ${tensor.offset}, where ${end} follows from the tensors before it`,
      )
    end += tensor.bytes
  }
  if (end !== file.size) {
    throw new ClaraError(`"${file.path}" holds ${file.size - end} bytes that belong to no tensor.`, {
      hint: 'Download or copy it again.',
    })
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isNaturals(value: unknown): value is number[] {
  return Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0)
}

function notSafetensors(path: string, received: string, cause?: unknown): ClaraError {
  return new ClaraError(`"${path}" is not a safetensors file.`, {
    expected: 'a JSON head behind eight bytes of length',
    received,
    cause,
  })
}

function damagedTensor(file: PositionedFile, name: string, problem: string): ClaraError {
  return new ClaraError(`"${file.path}" is damaged: tensor "${name}" ${problem}.`, {
    hint: 'Download or copy it again.',
  })
}

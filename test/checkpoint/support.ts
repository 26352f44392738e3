/** Builders of small model files for the tests, byte by byte. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished } from 'vitest'
import { ClaraError } from '../../src/errors.ts'

/** A folder that disappears after the test. */
export async function temporaryFolder(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'checkpoint-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  return folder
}

/** A file with these bytes that disappears after the test. */
export async function temporaryFile(name: string, bytes: Uint8Array | string): Promise<string> {
  const path = join(await temporaryFolder(), name)
  await writeFile(path, bytes)
  return path
}

/** Expects an error meant for the user whose message has the pattern. */
export async function expectClaraError(work: Promise<unknown>, pattern: RegExp): Promise<void> {
  const outcome = await work.then(
    (value) => ({ value }),
    (error: unknown) => ({ error }),
  )
  expect(outcome).toHaveProperty('error')
  const error = 'error' in outcome ? outcome.error : undefined
  expect(error).toBeInstanceOf(ClaraError)
  expect(String(error)).toMatch(pattern)
}

export function concatenated(...parts: readonly (Uint8Array | readonly number[])[]): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(parts.flatMap((part) => [...part]))
}

export function uint32(value: number): Uint8Array {
  const bytes = new Uint8Array(4)
  new DataView(bytes.buffer).setUint32(0, value, true)
  return bytes
}

export function uint64(value: number | bigint): Uint8Array {
  const bytes = new Uint8Array(8)
  new DataView(bytes.buffer).setBigUint64(0, BigInt(value), true)
  return bytes
}

export const utf8 = (text: string): Uint8Array => new TextEncoder().encode(text)

export const bytesOf = (data: ArrayBufferView): Uint8Array =>
  new Uint8Array(data.buffer, data.byteOffset, data.byteLength)

const ggufString = (text: string) => concatenated(uint64(utf8(text).length), utf8(text))

export type GgufValue =
  | string
  | boolean
  | number
  | { readonly float: number }
  | { readonly raw: Uint8Array }
  | readonly string[]

function ggufValue(value: GgufValue): Uint8Array {
  if (typeof value === 'string') return concatenated(uint32(8), ggufString(value))
  if (typeof value === 'boolean') return concatenated(uint32(7), [value ? 1 : 0])
  if (typeof value === 'number') return concatenated(uint32(4), uint32(value))
  if ('raw' in value) return value.raw
  if ('float' in value) return concatenated(uint32(6), bytesOf(Float32Array.of(value.float)))
  return concatenated(uint32(9), uint32(8), uint64(value.length), ...value.map(ggufString))
}

export interface GgufPart {
  readonly name: string
  /** Row-major. */
  readonly dims: readonly (number | bigint)[]
  readonly type: number
  readonly bytes: Uint8Array
  /** Instead of the right one. */
  readonly offset?: number
}

export interface GgufOptions {
  readonly version?: number
  readonly alignment?: number
  readonly tensorCount?: number | bigint
  readonly keyCount?: number | bigint
}

/** A GGUF file. */
export function gguf(
  metadata: Readonly<Record<string, GgufValue>>,
  tensors: readonly GgufPart[],
  options: GgufOptions = {},
): Uint8Array<ArrayBuffer> {
  const alignment = options.alignment ?? 32
  const keys = Object.entries(metadata)
  const placed: Uint8Array[] = []
  let offset = 0
  const records = tensors.map((tensor) => {
    const start = offset
    const padded = new Uint8Array(Math.ceil(tensor.bytes.length / alignment) * alignment)
    padded.set(tensor.bytes)
    placed.push(padded)
    offset += padded.length
    const dims = tensor.dims.toReversed().map(uint64)
    return concatenated(
      ggufString(tensor.name),
      uint32(dims.length),
      ...dims,
      uint32(tensor.type),
      uint64(tensor.offset ?? start),
    )
  })
  const head = concatenated(
    utf8('GGUF'),
    uint32(options.version ?? 3),
    uint64(options.tensorCount ?? tensors.length),
    uint64(options.keyCount ?? keys.length),
    ...keys.flatMap(([key, value]) => [ggufString(key), ggufValue(value)]),
    ...records,
  )
  const padding = new Uint8Array((alignment - (head.length % alignment)) % alignment)
  return concatenated(head, padding, ...placed)
}

/** A safetensors file from a head and the bytes behind it. */
export function safetensors(head: unknown, data: Uint8Array): Uint8Array<ArrayBuffer> {
  const json = utf8(typeof head === 'string' ? head : JSON.stringify(head))
  return concatenated(uint64(json.length), json, data)
}

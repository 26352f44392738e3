import { createHash, randomBytes } from 'node:crypto'
import { mkdir, readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { openSafetensors, type SafetensorsFile, writeSafetensors } from '../../checkpoint/safetensors.ts'
import type { EncodedDocument } from '../../clara/batch.ts'
import { compressorLayers, MEMORY_ROWS, SALIENT } from '../../clara/compressor.ts'
import { type Encoder, type Memory, openEncoder } from '../../clara/encoder.ts'
import { inferenceRole } from '../../clara/inference.ts'
import { EMBEDDING } from '../../clara/network.ts'
import { ClaraError } from '../../errors.ts'
import { float32, type HostTensor } from '../../graph/dtype.ts'
import type { Stage1ModelOptions } from './stage1.ts'

/**
 * Memories of a compressor that no longer changes, kept on disk: each document is compressed once, however many steps, epochs
 * and runs read it. They lie in a folder named after the compressor's fingerprint, in files of a few hundred documents that
 * are written whole or not at all, so that a killed process loses at most the file in the making. What the compressor reads
 * (token ids), is a document's name.
 */
export interface MemoryBank {
  /** Documents that this bank had to compress so far. */
  readonly compressed: number
  /**
   * Compresses those documents of which there is no memory yet.
   * @param onProgress Told how many of the missing ones are done.
   */
  prepare(documents: readonly EncodedDocument[], options?: PrepareOptions): Promise<void>
  /** Memories of documents, in order; what is missing is compressed first. */
  memories(documents: readonly EncodedDocument[]): Promise<Memory[]>
  close(): Promise<void>
}

export interface PrepareOptions {
  readonly signal?: AbortSignal | undefined
  readonly onProgress?: ((done: number, all: number) => void) | undefined
}

export interface MemoryBankOptions {
  readonly model: Pick<
    Stage1ModelOptions,
    'runtime' | 'base' | 'lora' | 'pooling' | 'memoryTokens' | 'padId' | 'positions' | 'parameters'
  >
  /** Text positions per memory token. */
  readonly rate: number
  /** Where such folders lie. */
  readonly folder: string
}

/** Documents of one file. */
const SHARD = 256
const shardName = /^memory-[0-9a-f]+\.safetensors$/

export async function openMemoryBank(options: MemoryBankOptions): Promise<MemoryBank> {
  const folder = join(options.folder, compressorFingerprint(options))
  await mkdir(folder, { recursive: true }).catch((cause: unknown) => {
    throw new ClaraError(`The folder "${folder}" for memories cannot be made.`, {
      hint: "Name another one by the setting 'retrieval.memoryCache'.",
      cause,
    })
  })
  const files: SafetensorsFile[] = []
  const places = new Map<string, SafetensorsFile>()
  const take = async (path: string) => {
    const file = await openSafetensors(path)
    files.push(file)
    for (const name of file.tensors.keys()) places.set(name, file)
  }
  for (const name of (await readdir(folder)).sort()) {
    // a damaged file is as good as none: its documents are compressed again
    if (shardName.test(name)) await take(join(folder, name)).catch(() => undefined)
  }
  const width = options.model.base.config.hidden_size
  let compressed = 0

  const write = async (names: readonly string[], memories: readonly Memory[]) => {
    const tensors = new Map<string, HostTensor>()
    names.forEach((name, index) => {
      const memory = memories[index]
      if (memory) tensors.set(name, float32(memory.tokens, memory.shape))
    })
    const path = join(folder, `memory-${randomBytes(8).toString('hex')}.safetensors`)
    await writeSafetensors(path, tensors)
    await take(path)
  }

  const read = async (document: EncodedDocument): Promise<Memory> => {
    const name = nameOf(document)
    const { data, dims } = (await places.get(name)?.read(name)) ?? {}
    const [count = 0, columns] = dims ?? []
    if (data instanceof Float32Array && columns === width) return { tokens: data, shape: [count, width] }
    throw new ClaraError(`The memories in "${folder}" are damaged.`, { hint: 'Remove the folder: it is made again.' })
  }

  const bank: MemoryBank = {
    get compressed() {
      return compressed
    },
    async prepare(documents, { signal, onProgress } = {}) {
      const missing = new Map<string, EncodedDocument>()
      for (const document of documents) {
        const name = nameOf(document)
        if (!places.has(name)) missing.set(name, document)
      }
      if (missing.size === 0) return
      // of like length, so that they pad each other least
      const all = [...missing].sort(([, left], [, right]) => left.ids.length - right.ids.length)
      // open only while it is needed: its session holds weights of its own
      const encoder = await openCompressor(options)
      try {
        for (let start = 0; start < all.length; start += SHARD) {
          const part = all.slice(start, start + SHARD)
          const memories = await encoder.encode(
            part.map(([, document]) => document),
            signal ? { signal } : {},
          )
          compressed += part.length
          await write(
            part.map(([name]) => name),
            memories,
          )
          onProgress?.(Math.min(start + SHARD, all.length), all.length)
        }
      } finally {
        await encoder.close()
      }
    },
    async memories(documents) {
      await bank.prepare(documents)
      return await Promise.all(documents.map(read))
    },
    async close() {
      await Promise.all(files.map((file) => file.close()))
    },
  }
  return bank
}

/** The compressor, or the query reasoner, as it is now: a forward pass at fp32. */
export async function openCompressor(
  { model, rate }: Pick<MemoryBankOptions, 'model' | 'rate'>,
  role: 'encoder_adapter' | 'query_reasoner_adapter' = 'encoder_adapter',
): Promise<Encoder> {
  const { runtime, base, lora, pooling, parameters } = model
  const prepared = await inferenceRole({
    runtime,
    base,
    adapters: parameters,
    role,
    size: lora,
    layers: compressorLayers(base, pooling),
    kind: 'fp32',
    head: false,
  })
  return openEncoder({ ...model, role: prepared, memoryOf: role, pooling: { ...pooling, rate } })
}

/** What the compressor reads is all that a memory depends on beside the compressor. */
function nameOf({ ids, text, memoryTokens }: EncodedDocument): string {
  return createHash('sha256')
    .update(JSON.stringify([ids, text, memoryTokens]))
    .digest('hex')
}

/** Changes with anything that changes a memory. */
function compressorFingerprint({ model, rate }: MemoryBankOptions): string {
  const { base, lora, pooling, parameters } = model
  const hash = createHash('sha256').update(base.fingerprint)
  const { config, fixedCount, width } = pooling
  hash.update(JSON.stringify([config, fixedCount, width ?? null, lora.rank, lora.alpha, rate]))
  const add = (name: string, { buffer, byteOffset, byteLength }: ArrayBufferView) =>
    hash.update(name).update(new Uint8Array(buffer, byteOffset, byteLength))
  if (pooling.idf) add('idf', pooling.idf)
  const table = base.weights.get(EMBEDDING)?.data as Float32Array
  add('added tokens', table.subarray(base.baseVocabulary * base.config.hidden_size))
  const learned = [...parameters.keys()].filter((name) => name.includes('.encoder_adapter.'))
  for (const name of [...learned, MEMORY_ROWS, ...Object.values(SALIENT)].sort()) {
    const value = parameters.get(name)
    if (value) add(name, value.data as Float32Array)
  }
  return hash.digest('hex').slice(0, 32)
}

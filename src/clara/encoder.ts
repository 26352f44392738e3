import { ClaraError } from '../errors.ts'
import { float32, type HostTensor } from '../graph/dtype.ts'
import { addOutput, createGraph } from '../graph/graph.ts'
import type { Role } from '../lora/adapters.ts'
import { encodeGraph } from '../ops/table.ts'
import type { Runtime } from '../runtime/runtime.ts'
import type { BaseModel } from './base.ts'
import { type CompressorBatch, compressorBatch, type EncodedDocument, type PoolingOptions } from './batch.ts'
import { compressor, memoryParameters, QUERY_PROJECTION } from './compressor.ts'
import type { InferenceRole } from './inference.ts'

/** A document compressed: its memory tokens, row after row. */
export interface Memory {
  readonly tokens: Float32Array
  /** [memory tokens, hidden_size] */
  readonly shape: readonly [number, number]
}

export interface EncoderOptions {
  readonly runtime: Runtime
  readonly base: BaseModel
  readonly role: InferenceRole
  /** Whose memory it makes. Default: the compressor's. */
  readonly memoryOf?: Role
  /** Parameters beside the adapters: memory-token rows, salient weights. */
  readonly parameters: ReadonlyMap<string, HostTensor>
  readonly pooling: PoolingOptions
  readonly memoryTokens: number
  readonly padId: number
  readonly positions: number
}

/** A compressor, or a query reasoner, ready to run. */
export interface Encoder extends AsyncDisposable {
  /**
   * Memory of each document, in order.
   * @param rate Text positions per memory token, where memory is proportional. Default: the model's own.
   * @throws ClaraError for another rate where the number of memory tokens is fixed.
   */
  encode(documents: readonly EncodedDocument[], options?: { rate?: number; signal?: AbortSignal }): Promise<Memory[]>
  close(): Promise<void>
}

/** Documents that are compressed together: enough to fill the cores, few enough for a small machine. */
const BATCH = 8

export async function openEncoder(options: EncoderOptions): Promise<Encoder> {
  const { runtime, base, role, pooling, padId } = options
  const graph = createGraph('compressor')
  const declared = role.declare(graph, options.positions)
  const learned = memoryParameters(options.parameters, options.memoryOf ?? 'encoder_adapter')
  const { memory } = compressor(declared.base, {
    role: 'encoder_adapter',
    lora: undefined,
    decoder: declared.decoder,
    config: pooling.config,
    memoryTokens: options.memoryTokens,
    embeddingNorm: base.embeddingNorm,
    projected: QUERY_PROJECTION in learned,
  })
  addOutput(graph, 'memory', memory)
  const session = await runtime.open(encodeGraph(graph), new Map([...role.weights]))
  return batchedEncoder({
    pooling,
    padId,
    width: base.config.hidden_size,
    async compress({ feeds }) {
      const { memory } = await session.run({ ...feeds, ...learned })
      return memory?.data as Float32Array
    },
    close: () => session.close(),
  })
}

export interface BatchedEncoderOptions {
  readonly pooling: PoolingOptions
  readonly padId: number
  /** Numbers of a memory token. */
  readonly width: number
  /** Memory of all documents of a batch, one after the other. */
  readonly compress: (batch: CompressorBatch) => Promise<Float32Array>
  readonly close: () => Promise<void>
}

/** An encoder that compresses documents of like length together. */
export function batchedEncoder({ pooling, padId, width, compress, close }: BatchedEncoderOptions): Encoder {
  const encoder: Encoder = {
    async encode(documents, { rate = pooling.rate, signal } = {}) {
      if (!pooling.config.proportional && rate !== pooling.rate) {
        throw new ClaraError('This model gives every document the same number of memory tokens.', {
          expected: `its own rate, ${pooling.rate}`,
          received: String(rate),
          hint: 'Leave the rate out, or use a model whose memory is proportional to the length.',
        })
      }
      const memories = new Array<Memory>(documents.length)
      // documents of like length pad each other least
      const order = documents.map((_, index) => index).sort((a, b) => lengthOf(documents, a) - lengthOf(documents, b))
      for (let start = 0; start < order.length; start += BATCH) {
        signal?.throwIfAborted()
        const indices = order.slice(start, start + BATCH)
        const batch = compressorBatch(
          indices.map((index) => documents[index] as EncodedDocument),
          padId,
          { ...pooling, rate },
        )
        const data = await compress(batch)
        let offset = 0
        indices.forEach((index, place) => {
          const count = batch.memoryCounts[place] ?? 0
          memories[index] = { tokens: data.slice(offset, offset + count * width), shape: [count, width] }
          offset += count * width
        })
      }
      return memories
    },
    close,
    [Symbol.asyncDispose]: () => encoder.close(),
  }
  return encoder
}

const lengthOf = (documents: readonly EncodedDocument[], index: number) => documents[index]?.ids.length ?? 0

/** All memories below each other, as the generator reads them. */
export function joinMemories(memories: readonly Memory[], width: number): HostTensor {
  const count = memories.reduce((sum, { shape }) => sum + shape[0], 0)
  const joined = new Float32Array(count * width)
  let offset = 0
  for (const { tokens } of memories) {
    joined.set(tokens, offset)
    offset += tokens.length
  }
  return float32(joined, [count, width])
}

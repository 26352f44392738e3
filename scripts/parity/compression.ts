import { z } from 'zod'
import { compressorBatch } from '../../src/clara/batch.ts'
import { compressor } from '../../src/clara/compressor.ts'
import { declareBase } from '../../src/clara/network.ts'
import type { HostTensor } from '../../src/graph/dtype.ts'
import { addOutput, createGraph } from '../../src/graph/graph.ts'
import type { Role } from '../../src/lora/adapters.ts'
import { encodeGraph } from '../../src/ops/table.ts'
import type { Runtime } from '../../src/runtime/runtime.ts'
import { comparedTexts } from './encoding.ts'
import {
  encodeText,
  type LoadedCheckpoint,
  type Parity,
  parametersOf,
  poolingOf,
  publishedCompressor,
} from './model.ts'
import { tolerances } from './report.ts'

export interface Compressed {
  /** float32 [documents · memory tokens, hidden] */
  readonly memory: HostTensor
  readonly mseLoss: number
}

/** Memory of some texts, by one role's adapter. */
export async function compress(
  runtime: Runtime,
  checkpoint: LoadedCheckpoint,
  role: Role,
  texts: readonly string[],
): Promise<Compressed> {
  const { model, lora, memoryRows } = checkpoint
  const documents = texts.map((text) => encodeText(checkpoint, text))
  const graph = createGraph(`compress by ${role}`)
  const pooling = poolingOf(checkpoint)
  const positions = Math.max(pooling.width ?? 0, ...documents.map(({ ids }) => ids.length))
  const { memory: result, mseLoss } = compressor(declareBase(graph, model.config, model.vocabulary, positions), {
    role,
    lora,
    config: publishedCompressor,
    memoryTokens: memoryRows.dims[0] ?? 0,
    embeddingNorm: model.embeddingNorm,
  })
  addOutput(graph, 'memory', result)
  if (mseLoss) addOutput(graph, 'mseLoss', mseLoss)
  await using session = await runtime.open(encodeGraph(graph), model.weights)
  const { feeds } = compressorBatch(documents, checkpoint.tokenizer.padId, pooling)
  const results = await session.run({ ...feeds, ...Object.fromEntries(parametersOf(checkpoint, [role])) })
  return { memory: results.memory as HostTensor, mseLoss: Number(results.mseLoss?.data[0]) }
}

/** Memory and MSE term of the folder's documents. */
export async function compareCompression({ fixture, report, runtime, stage1 }: Parity): Promise<void> {
  const texts = comparedTexts(fixture, 'compress.memory')
  const { memory, mseLoss } = await compress(runtime, stage1, 'encoder_adapter', texts)
  const dims = [texts.length, stage1.memory.count, stage1.decoder.hidden_size]
  report.close('compress.memory', { dims, data: memory.data }, fixture.tensor('compress.memory'), tolerances.memory)
  report.close('compress.mse_loss', mseLoss, fixture.value('compress.mse_loss', z.number()), tolerances.loss)
}

import { join } from 'node:path'
import type { BaseModel } from '../../src/clara/base.ts'
import { type EncodedDocument, fixedWidth, type PoolingOptions } from '../../src/clara/batch.ts'
import { MEMORY_ROWS } from '../../src/clara/compressor.ts'
import { type CompressorConfig, compressorConfig } from '../../src/clara/config.ts'
import { encodeDocument } from '../../src/clara/prompts.ts'
import { loadPublishedBase, type PublishedCheckpoint, readPublished } from '../../src/clara/published.ts'
import { stopTokens } from '../../src/clara/stop-tokens.ts'
import type { HostTensor } from '../../src/graph/dtype.ts'
import type { Role } from '../../src/lora/adapters.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'
import { type Fixture, openFixture } from './fixture.ts'
import { createReport, type Report } from './report.ts'

/** A checkpoint with its base, ready to be put into graphs. */
export interface LoadedCheckpoint extends PublishedCheckpoint {
  readonly model: BaseModel
  /** Tokens that end an answer. */
  readonly stopIds: readonly number[]
}

/** What every group of comparisons works with. */
export interface Parity extends AsyncDisposable {
  readonly fixture: Fixture
  readonly report: Report
  readonly runtime: Runtime
  /** After stage 1. */
  readonly stage1: LoadedCheckpoint
  /** After stage 2; undefined where the folder has none. */
  readonly stage2: LoadedCheckpoint | undefined
}

/** The published compressor: appended memory tokens, all layers, causal. */
export const publishedCompressor: CompressorConfig = compressorConfig.parse({})

export async function openParity(folder: string): Promise<Parity> {
  const fixture = await openFixture(folder)
  const load = async (name: string): Promise<LoadedCheckpoint> => {
    const checkpoint = await readPublished(join(folder, name))
    const stopIds = await stopTokens(checkpoint.baseFolder, checkpoint.tokenizer)
    return { ...checkpoint, model: await loadPublishedBase(checkpoint), stopIds }
  }
  const stage1 = await load('checkpoint')
  const stage2 = fixture.has('stage2') ? await load('checkpoint-stage2') : undefined
  const runtime = await openRuntime()
  return {
    fixture,
    report: createReport(),
    runtime,
    stage1,
    stage2,
    [Symbol.asyncDispose]: () => runtime.close(),
  }
}

/** A text as the published compressor reads it, special tokens in it included. */
export function encodeText({ tokenizer, config, memory }: PublishedCheckpoint, text: string): EncodedDocument {
  return encodeDocument(tokenizer, text, { docMaxLength: config.doc_max_length, memory, specials: 'parse' })
}

/** How documents and questions of a checkpoint become memory. */
export const poolingOf = ({ config, decoder, memory }: PublishedCheckpoint): PoolingOptions => ({
  config: publishedCompressor,
  rate: config.compr_rate,
  fixedCount: memory.count,
  width: fixedWidth(decoder, config.doc_max_length, memory.count),
})

/** Copies of the trainable values of some roles, with the memory-token rows. */
export function parametersOf(checkpoint: PublishedCheckpoint, wanted: readonly Role[]): Map<string, HostTensor> {
  const adapters = wanted.flatMap((role) => [...(checkpoint.adapters.get(role) ?? [])])
  const all: [string, HostTensor][] = [...adapters, [MEMORY_ROWS, checkpoint.memoryRows]]
  return new Map(all.map(([name, { dtype, dims, data }]) => [name, { dtype, dims, data: data.slice() }]))
}

/** Rows padded on the left to `width`, by default that of the longest. */
export function leftPad(rows: readonly (readonly number[])[], padding: number, width = longest(rows)): number[][] {
  return rows.map((row) => [...new Array<number>(Math.max(0, width - row.length)).fill(padding), ...row])
}

export const longest = (rows: readonly (readonly unknown[])[]): number => Math.max(...rows.map(({ length }) => length))

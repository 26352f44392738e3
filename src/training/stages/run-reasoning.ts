import { join } from 'node:path'
import { cacheFolder } from '../../checkpoint/tensor-cache.ts'
import type { EncodedDocument, GeneratorRow } from '../../clara/batch.ts'
import { batchStream } from '../../data/batching.ts'
import { mixture } from '../../data/mixture.ts'
import { createRandom } from '../../data/random.ts'
import { openRuntime } from '../../runtime/runtime.ts'
import type { BatchSource } from '../model.ts'
import { recordRun } from '../run-folder.ts'
import { train } from '../trainer.ts'
import type { OptionsAtRate } from './batches.ts'
import type { StageConfig } from './config.ts'
import { frozenStart } from './frozen-start.ts'
import { stageTools } from './material.ts'
import type { MemoryBank } from './memory-bank.ts'
import { memoryBanks } from './memory-banks.ts'
import { openReading, openReadingEvaluation, type ReadingBatch, readingLabels } from './reading.ts'
import { type Reasoning, readReasonings, reasoningSample } from './reasoning.ts'
import type { StageResult, StageRunOptions } from './run.ts'
import { encodeText } from './samples.ts'
import { stageModelOptions } from './set-up.ts'

/** The generator learns to reason over memory that is put into its answer. */
export async function runReasoning({ config, ...options }: StageRunOptions): Promise<StageResult> {
  const tools = await stageTools(config)
  const files = await Promise.all(config.data.map(readReasonings))
  const evaluated = await Promise.all(config.evaluation.data.map(readReasonings))
  const resume = options.resume ?? false
  const texts = files.flat().flatMap(documentsOf)
  const start = await frozenStart(config, tools, texts, resume)
  await using runtime = await openRuntime(config.threads === undefined ? {} : { threads: config.threads })
  const model = stageModelOptions(config, tools, { runtime, ...start })
  await using banks = memoryBanks(model, config.memoryCache ?? join(cacheFolder(), 'memory'))
  const [rate = 1] = config.compressionRates
  const all = [...texts, ...evaluated.flat().flatMap(documentsOf)].map((text) =>
    encodeText(text, tools.optionsAt(rate)),
  )
  // a file that has changed since the run began is told before anything is compressed
  await recordRun(config, resume)
  for (const each of new Set(config.compressionRates)) {
    await (await banks.at(each)).prepare(all, { signal: options.signal, onProgress: options.progress?.compressed })
  }

  const assemble = reasoningAssembly(tools.optionsAt, banks.at)
  const learning = await openReading(model)
  const evaluate = await evaluation(config, model, (part) => assemble(part, rate), evaluated)
  await start.keep(learning.parameters.keys())
  const result = await train({
    model: learning,
    batches: reasoningSource(config, files, assemble),
    config,
    runFolder: config.output,
    ...options,
    ...(evaluate ? { evaluate } : {}),
  })
  return { ...result, compressed: banks.compressed }
}

const documentsOf = ({ documents, pieces }: Reasoning): string[] => [
  ...documents,
  ...pieces.flatMap((piece) => ('documents' in piece ? piece.documents : [])),
]

/** Makes batches of reasonings, with memories of their documents at a rate. */
export const reasoningAssembly =
  (optionsAt: OptionsAtRate, bankAt: (rate: number) => Promise<Pick<MemoryBank, 'memories'>>) =>
  async (reasonings: readonly Reasoning[], rate: number): Promise<ReadingBatch> => {
    const documents: EncodedDocument[] = []
    const rows: GeneratorRow[] = []
    for (const reasoning of reasonings) {
      const sample = reasoningSample(reasoning, optionsAt(rate), documents.length)
      documents.push(...sample.documents)
      rows.push(sample.row)
    }
    return { memories: await (await bankAt(rate)).memories(documents), rows }
  }

/** The reasonings of several files, mixed by weight, as an endless stream of batches. */
export function reasoningSource(
  { batchSize, seed, data, compressionRates }: StageConfig,
  files: readonly (readonly Reasoning[])[],
  assemble: (reasonings: readonly Reasoning[], rate: number) => Promise<ReadingBatch>,
): BatchSource<ReadingBatch> {
  const parts = files.map((reasonings, index) => {
    const lengths = reasonings.map((reasoning) => lengthOf(reasoning))
    const { file = '', weight = 1 } = data[index] ?? {}
    return { name: `${index}:${file}`, weight, stream: batchStream({ lengths, batchSize, seed: seed + index }) }
  })
  const byName = new Map(parts.map(({ name }, index) => [name, files[index] ?? []]))
  const stream = mixture({ parts, seed })
  return {
    next() {
      const { name, item, seed: own } = stream.next()
      const rate = compressionRates[createRandom(own).int(compressionRates.length)] ?? 1
      return assemble(
        item.flatMap((at) => byName.get(name)?.[at] ?? []),
        rate,
      )
    },
    state: () => stream.state(),
    restore: (state) => stream.restore(state),
  }
}

/** Characters that a generator reads or writes, memory left out. */
const lengthOf = ({ question, pieces }: Reasoning): number =>
  question.length + pieces.reduce((sum, piece) => sum + ('text' in piece ? piece.text.length : 0), 0)

async function evaluation(
  { evaluation: { samples }, batchSize }: StageConfig,
  model: Parameters<typeof openReadingEvaluation>[0],
  assemble: (reasonings: readonly Reasoning[]) => Promise<ReadingBatch>,
  files: readonly (readonly Reasoning[])[],
) {
  if (files.length === 0) return undefined
  const chosen = files.flatMap((reasonings) => reasonings.slice(0, samples))
  const reading = await openReadingEvaluation(model)
  return async () => {
    let sum = 0
    let labels = 0
    for (let start = 0; start < chosen.length; start += batchSize) {
      const batch = await assemble(chosen.slice(start, start + batchSize))
      const count = readingLabels(batch)
      sum += (await reading.loss(batch)) * count
      labels += count
    }
    return { loss: sum / labels }
  }
}

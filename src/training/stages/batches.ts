import type { EncodedDocument, GeneratorRow } from '../../clara/batch.ts'
import { batchStream } from '../../data/batching.ts'
import { loadJsonLines } from '../../data/jsonl.ts'
import { mixture } from '../../data/mixture.ts'
import { createRandom, type Random } from '../../data/random.ts'
import { paraphraseSchema, passageSchema, poolQuestionSchema } from '../../data/schemas.ts'
import { mapStream, type ResumableStream } from '../../data/stream.ts'
import { ClaraError } from '../../errors.ts'
import { z } from 'zod'
import type { DataFile } from '../config.ts'
import type { StageConfig } from './config.ts'
import {
  type Chunk,
  chunkPassage,
  chunksSample,
  paraphraseSample,
  poolSample,
  qaPairsSample,
  type Sample,
  type SampleOptions,
} from './samples.ts'
import type { StageBatch } from './stage1.ts'

/** The items of one file under one task: how long each is, and how to make a sample of it. */
interface TaskItems {
  readonly lengths: readonly number[]
  sample(index: number, options: SampleOptions, firstDocument: number, random: Random): Sample
}

/** Sample options for a compression rate. */
export type OptionsAtRate = (rate: number) => SampleOptions

/** What the compressor may count tokens in: every text of the data, once per file. */
export interface StageData {
  readonly batches: ResumableStream<StageBatch>
  readonly texts: readonly string[]
}

/**
 * Reads the files of a run and mixes their tasks into an endless stream of batches. Everything random in a batch follows
 * from the run's seed and the batch's place in the stream.
 */
export async function stageBatches(config: StageConfig, optionsAt: OptionsAtRate): Promise<StageData> {
  const texts: string[] = []
  const options = optionsAt(config.compressionRates[0] ?? 1)
  const parts = await Promise.all(
    config.data.map(async (file, index) => {
      const items = await readItems(file, config, options, texts)
      const { batchSize, seed } = config
      const stream = batchStream({ lengths: items.lengths, batchSize, seed: seed + index })
      return { name: `${index}:${file.task}:${file.file}`, weight: file.weight, items, stream }
    }),
  )
  const byName = new Map(parts.map(({ name, items }) => [name, items]))
  const batches = mapStream(mixture({ parts, seed: config.seed }), ({ name, item, seed }) => {
    const random = createRandom(seed)
    const rate = config.compressionRates[random.int(config.compressionRates.length)] ?? 1
    const items = byName.get(name)
    if (!items) throw new RangeError(`No task is named '${name}'.`)
    return collect(item, items, optionsAt(rate), rate, random)
  })
  return { batches, texts }
}

function collect(indices: readonly number[], items: TaskItems, options: SampleOptions, rate: number, random: Random): StageBatch {
  const documents: EncodedDocument[] = []
  const rows: GeneratorRow[] = []
  for (const index of indices) {
    const sample = items.sample(index, options, documents.length, random)
    documents.push(...sample.documents)
    rows.push(sample.row)
  }
  return { documents, rows, rate }
}

async function readItems(file: DataFile, config: StageConfig, options: SampleOptions, texts: string[]): Promise<TaskItems> {
  if (file.task === 'paraphrase') {
    const pairs = await loadJsonLines(file.file, paraphraseSchema)
    texts.push(...pairs.map(({ text }) => text))
    return {
      lengths: pairs.map(({ text }) => text.length),
      sample: (index, at, first, random) => paraphraseSample(element(pairs, index), at, first, random),
    }
  }
  const records = await loadJsonLines(file.file, z.union([passageSchema, poolQuestionSchema]))
  const passages = records.flatMap((record) => ('qa' in record ? [record] : []))
  const pools = records.flatMap((record) => ('candidates' in record ? [record] : []))
  if (file.task === 'answer' && pools.length > 0) {
    const { severalShare, maximum } = config.documents
    texts.push(...new Set(pools.flatMap(({ candidates }) => candidates.map(({ text }) => text))))
    return {
      lengths: pools.map(({ question }) => question.length),
      sample: (index, at, first, random) => {
        const several = random.uniform() < severalShare
        return poolSample(element(pools, index), several ? 2 + random.int(maximum - 1) : 1, at, first, random)
      },
    }
  }
  if (passages.length === 0) {
    throw new ClaraError(`${file.file} holds nothing for the task '${file.task}'.`, { expected: 'passages with qa' })
  }
  texts.push(...passages.map(({ text }) => text))
  const chunks = passages.flatMap((passage) => chunkPassage(passage, options))
  const lengths = chunks.map(({ document }) => document.ids.length)
  if (file.task === 'qa-pairs') {
    return { lengths, sample: (index, at, first) => qaPairsSample(element(chunks, index), at, first) }
  }
  return { lengths, sample: (index, at, first, random) => answerChunks(element(chunks, index), chunks, config, at, first, random) }
}

function answerChunks(
  chunk: Chunk,
  chunks: readonly Chunk[],
  { documents: { severalShare, maximum } }: StageConfig,
  options: SampleOptions,
  first: number,
  random: Random,
): Sample {
  const others = random.uniform() < severalShare && maximum > 1 ? 1 + random.int(maximum - 1) : 0
  return chunksSample(chunk, chunks, others, options, first, random)
}

function element<Item>(items: readonly Item[], index: number): Item {
  const item = items[index]
  if (item === undefined) throw new RangeError(`No item ${index} of ${items.length}.`)
  return item
}

import type { EncodedDocument, GeneratorRow } from '../../clara/batch.ts'
import { batchStream } from '../../data/batching.ts'
import { mixture } from '../../data/mixture.ts'
import { createRandom, type Random } from '../../data/random.ts'
import { mapStream, type ResumableStream } from '../../data/stream.ts'
import { loadTrainingData } from '../../data/training-data.ts'
import { ClaraError } from '../../errors.ts'
import type { DataFile } from '../config.ts'
import type { StageConfig } from './config.ts'
import {
  autoEncodingSample,
  chunkPassage,
  chunksSample,
  clozeSample,
  paraphraseSample,
  poolSample,
  qaPairsSample,
  type Sample,
  type SampleOptions,
  stretches,
  titled,
} from './samples.ts'
import type { StageBatch } from './stage1.ts'

/** The items of one file under one task: how long each is, and how to make a sample of it. */
interface TaskItems {
  readonly lengths: readonly number[]
  /** `documents`: how many documents an answer prompt holds. */
  sample(index: number, options: SampleOptions, firstDocument: number, random: Random, documents: number): Sample
}

/** Sample options for a compression rate. */
export type OptionsAtRate = (rate: number) => SampleOptions

/** What the compressor may count tokens in: every text of the data, once per file. */
export interface StageData {
  readonly batches: ResumableStream<StageBatch>
  readonly texts: readonly string[]
  /** Items of each of the run's files, in their order. */
  readonly counts: readonly number[]
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
      if (items.lengths.length === 0) {
        throw new ClaraError(`${file.file} holds nothing for the task '${file.task}'.`, {
          expected: expectedOf[file.task],
        })
      }
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
    // one number of documents for the whole batch: rows of like length pad less
    const { severalShare, maximum } = config.documents
    const count = maximum > 1 && random.uniform() < severalShare ? 2 + random.int(maximum - 1) : 1
    return collect(item, items, optionsAt(rate), rate, random, count)
  })
  return { batches, texts, counts: parts.map(({ items }) => items.lengths.length) }
}

function collect(
  indices: readonly number[],
  items: TaskItems,
  options: SampleOptions,
  rate: number,
  random: Random,
  count: number,
): StageBatch {
  const documents: EncodedDocument[] = []
  const rows: GeneratorRow[] = []
  const textRows: (GeneratorRow | undefined)[] = []
  for (const index of indices) {
    const sample = items.sample(index, options, documents.length, random, count)
    documents.push(...sample.documents)
    rows.push(sample.row)
    textRows.push(sample.textRow)
  }
  return { documents, rows, rate, ...(options.withText ? { textRows } : {}) }
}

/** What a file must hold to serve a task. */
const expectedOf: Readonly<Record<DataFile['task'], string>> = {
  'qa-pairs': 'passages with qa, whose answers occur in their text',
  answer: 'questions with candidates, or passages with qa, whose answers occur in their text',
  paraphrase: 'texts with a paraphrase',
  'auto-encoding': 'passages or questions with candidates',
  cloze: 'passages or questions with candidates',
  keywords: 'the stage stage2_pretrain_retrieval, whose query reasoner looks for texts',
}

async function readItems(
  file: DataFile,
  config: StageConfig,
  options: SampleOptions,
  texts: string[],
): Promise<TaskItems> {
  if (file.task === 'keywords') {
    throw new ClaraError(`The task 'keywords' has no place in ${config.stage}.`, {
      expected: expectedOf.keywords,
      received: file.file,
    })
  }
  if (file.task === 'paraphrase') {
    const { paraphrases: pairs } = await loadTrainingData(file.file)
    texts.push(...pairs.map(({ text }) => text))
    return {
      lengths: pairs.map(({ text }) => text.length),
      sample: (index, at, first, random) => paraphraseSample(element(pairs, index), at, first, random),
    }
  }
  if (file.task === 'auto-encoding' || file.task === 'cloze') {
    const known = new Set((await Promise.all((file.without ?? []).map(readTexts))).flat())
    const whole = (await readTexts(file.file)).filter((text) => !known.has(text))
    texts.push(...whole)
    const pieces = whole.flatMap((text) => stretches(text, options))
    const lengths = pieces.map((piece) => piece.length)
    if (file.task === 'auto-encoding') {
      return { lengths, sample: (index, at, first) => autoEncodingSample(element(pieces, index), at, first) }
    }
    return {
      lengths,
      sample: (index, at, first, random, count) =>
        clozeSample(element(pieces, index), pieces, count - 1, at, first, random),
    }
  }
  const { passages, pools } = await loadTrainingData(file.file)
  if (pools.length > 0 && passages.length > 0) {
    throw new ClaraError(`${file.file} mixes passages with questions that have candidates.`, {
      expected: 'one kind of record a file',
      received: `${passages.length} passages and ${pools.length} questions`,
      hint: 'Split the file in two and give each its weight.',
    })
  }
  if (file.task === 'answer' && pools.length > 0) {
    texts.push(...new Set(pools.flatMap(({ candidates }) => candidates.map(({ text }) => text))))
    return {
      lengths: pools.map(({ question }) => question.length),
      sample: (index, at, first, random, count) => poolSample(element(pools, index), count, at, first, random),
    }
  }
  texts.push(...passages.map(({ text }) => text))
  const chunks = passages.flatMap((passage) => chunkPassage(passage, options))
  const lengths = chunks.map(({ document }) => document.ids.length)
  if (file.task === 'qa-pairs') {
    return { lengths, sample: (index, at, first) => qaPairsSample(element(chunks, index), at, first) }
  }
  return {
    // what a row costs is decided by its questions more than by its document
    lengths: chunks.map(({ document, qa }) => document.ids.length + 30 * Math.min(qa.length, config.questionsPerRow)),
    sample: (index, at, first, random, count) =>
      chunksSample(element(chunks, index), chunks, count - 1, at, first, random),
  }
}

/** Every distinct text of a file, with its title where a pool gives one. */
async function readTexts(path: string): Promise<string[]> {
  const { passages, pools } = await loadTrainingData(path)
  return [
    ...new Set([...passages.map(({ text }) => text), ...pools.flatMap(({ candidates }) => candidates.map(titled))]),
  ]
}

function element<Item>(items: readonly Item[], index: number): Item {
  const item = items[index]
  if (item === undefined) throw new RangeError(`No item ${index} of ${items.length}.`)
  return item
}

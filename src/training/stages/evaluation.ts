import type { EncodedDocument, GeneratorRow } from '../../clara/batch.ts'
import { packPrompts } from '../../clara/batch.ts'
import { fullTextPrompt, noMemoryPrompt, trainingPrompt } from '../../clara/prompts.ts'
import { loadTrainingData } from '../../data/training-data.ts'
import { ClaraError } from '../../errors.ts'
import { answerSample, type Chunk, chunkPassage, type QuestionAnswer, type SampleOptions } from './samples.ts'
import type { StageBatch } from './stage1.ts'

/**
 * Batches that ask the same questions four ways: with the right memory, with another document's, with an empty background,
 * and with the full text in the memory's place. The last three are the controls without which the first says nothing.
 */
export interface ControlBatches {
  readonly right: readonly StageBatch[]
  readonly wrong: readonly StageBatch[]
  readonly none: readonly StageBatch[]
  readonly text: readonly StageBatch[]
}

/** Chunks in one batch at most. */
const LARGEST_GROUP = 8

/** Reads the first `samples` chunks of a file of passages, their questions included. */
export async function controlBatches(
  file: string,
  samples: number,
  options: SampleOptions,
  rate: number,
): Promise<ControlBatches> {
  const { passages } = await loadTrainingData(file)
  // one chunk a passage, spread over the file, so that neighbours do not share an article
  const every = Math.max(1, Math.floor(passages.length / samples))
  const chunks = passages
    .filter((_, index) => index % every === 0)
    .flatMap((passage) => chunkPassage(passage, options).slice(0, 1))
    .slice(0, samples)
  if (chunks.length < 2) {
    throw new ClaraError(`${file} has fewer than two passages that answer one of their questions.`, {
      hint: 'The wrong-memory control needs another passage.',
    })
  }
  const groups: Chunk[][] = []
  // of like sizes, so that none has a single chunk, whose wrong memory would be the right one
  const count = Math.ceil(chunks.length / LARGEST_GROUP)
  for (let group = 0; group < count; group++) {
    groups.push(
      chunks.slice(Math.floor((group * chunks.length) / count), Math.floor(((group + 1) * chunks.length) / count)),
    )
  }
  const { tokenizer, maxLength, questionsPerRow } = options
  /** One row for every few questions of a chunk. */
  const batch = (
    group: readonly Chunk[],
    row: (questions: readonly QuestionAnswer[], index: number) => GeneratorRow,
  ): StageBatch => ({
    documents: group.map(({ document }) => document),
    rows: group.flatMap(({ qa }, index) => slices(qa, questionsPerRow).map((questions) => row(questions, index))),
    rate,
  })
  const withMemory = (group: readonly Chunk[], memoryOf: (index: number) => number) => {
    const documents = group.map(({ document }) => document)
    return batch(group, (questions, index) => {
      const other = documents[memoryOf(index)] as EncodedDocument
      return answerSample([other], questions, options, memoryOf(index)).row
    })
  }
  const plain = (
    group: readonly Chunk[],
    messages: (text: string, question: string) => ReturnType<typeof noMemoryPrompt>,
  ) =>
    batch(group, (questions, index) =>
      packPrompts(
        questions.map(({ question, answer }) =>
          trainingPrompt(tokenizer, messages(group[index]?.text ?? '', question), answer, maxLength),
        ),
        [],
      ),
    )
  return {
    right: groups.map((group) => withMemory(group, (index) => index)),
    wrong: groups.map((group) => withMemory(group, (index) => (index + 1) % group.length)),
    none: groups.map((group) => plain(group, (_, question) => noMemoryPrompt(question))),
    text: groups.map((group) => plain(group, (text, question) => fullTextPrompt(question, [text]))),
  }
}

function slices<Item>(items: readonly Item[], size: number): Item[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, at) => items.slice(at * size, (at + 1) * size))
}

/** Mean loss over all labels of some batches. */
export async function meanLoss(
  batches: readonly StageBatch[],
  loss: (batch: StageBatch) => Promise<number>,
): Promise<number> {
  let sum = 0
  let labels = 0
  for (const batch of batches) {
    const count = batch.rows.reduce((total, row) => total + row.labels.length, 0)
    sum += (await loss(batch)) * count
    labels += count
  }
  return sum / labels
}

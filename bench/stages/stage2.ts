import type { Memory } from '../../src/clara/encoder.ts'
import type { Runtime } from '../../src/runtime/runtime.ts'
import { retrievalOf, type StageConfig } from '../../src/training/stages/config.ts'
import { startParameters } from '../../src/training/stages/initialise.ts'
import { stageIdf, stageTools } from '../../src/training/stages/material.ts'
import { openCompressor } from '../../src/training/stages/memory-bank.ts'
import { memoryBanks } from '../../src/training/stages/memory-banks.ts'
import { openReading, type ReadingBatch } from '../../src/training/stages/reading.ts'
import {
  longestMemory,
  openRetrieval,
  type RetrievalBatch,
  type RetrievalModelOptions,
} from '../../src/training/stages/retrieval.ts'
import { assembly, retrievalPlans } from '../../src/training/stages/retrieval-batches.ts'
import { createCorpus, readQuestions } from '../../src/training/stages/retrieval-data.ts'
import { memoryRows, stageModelOptions } from '../../src/training/stages/set-up.ts'
import { inTurn, median, medianOf } from '../measure.ts'
import { updates } from './stepper.ts'

export interface Stage2Options {
  readonly config: StageConfig
  /** Different batches that a round goes through. */
  readonly batches: number
  readonly repetitions: number
  /** Folder for memories. */
  readonly work: string
}

export interface Stage2Figures {
  /** Time of a sample over that of its query's encoding and of a generator's step on the same prompts, together. */
  readonly overhead: number
  /** Documents that were compressed while samples were measured. */
  readonly compressorRuns: number
  readonly millisecondsPerSample: { readonly sample: number; readonly query: number; readonly generator: number }
}

/**
 * What stage 2 (the paper's stage 3) costs over memories that were computed before. A sample is all of an update: the batch made anew
 * with its memories from the disk, forward, backward, clipping, AdamW. It is set against the query reasoner's forward pass
 * over the questions, and an update of the generator alone that reads as many memories of the same lengths.
 */
export async function measureStage2(
  runtime: Runtime,
  { config, repetitions, work, ...options }: Stage2Options,
): Promise<Stage2Figures> {
  const tools = await stageTools(config)
  const [rate = 1] = config.compressionRates
  const settings = retrievalOf(config)
  const corpus = createCorpus(tools.optionsAt(rate))
  const reading = { corpus, samples: tools.optionsAt(rate), labelled: false, least: settings.topK }
  const files = await Promise.all(config.data.map((file) => readQuestions(file, reading)))
  const parameters = startParameters(config, tools.base, memoryRows(config, tools), undefined)
  const idf = stageIdf(config, { ...tools, texts: corpus.texts })
  const { topK, temperature } = settings
  const model: RetrievalModelOptions = {
    ...stageModelOptions(config, tools, { runtime, parameters, idf }),
    objective: 'answer',
    topK,
    temperature,
  }
  await using banks = memoryBanks(model, work)
  const assemble = assembly({
    corpus,
    settings,
    fill: 0,
    inBatch: false,
    objective: 'answer',
    optionsAt: tools.optionsAt,
    bankAt: banks.at,
  })
  const stream = retrievalPlans(config, files)
  const plans = Array.from({ length: options.batches }, () => stream.next())
  const batches: RetrievalBatch[] = []
  // memories of all documents are computed here
  for (const plan of plans) batches.push(await assemble(plan))
  const compressed = banks.compressed

  const [learning, generator] = [await openRetrieval(model), await openReading(model)]
  const query = await openCompressor({ model, rate }, 'query_reasoner_adapter')
  const alone = batches.map((batch) => generatorBatch(batch, topK))
  try {
    const times = await inTurn(repetitions, {
      sample: updates(
        learning,
        config,
        plans.map((plan) => () => assemble(plan)),
      ),
      query: async () => {
        for (const { questions } of batches) await query.encode(questions)
      },
      generator: updates(
        generator,
        config,
        alone.map((batch) => () => batch),
      ),
    })
    const samples = batches.reduce((sum, { questions }) => sum + questions.length, 0)
    const perSample = (milliseconds: readonly number[]) => median(milliseconds) / samples
    return {
      overhead: medianOf(times, (round) => round.sample / (round.query + round.generator)),
      compressorRuns: banks.compressed - compressed,
      millisecondsPerSample: {
        sample: perSample(times.sample),
        query: perSample(times.query),
        generator: perSample(times.generator),
      },
    }
  } finally {
    await Promise.all([learning.close(), generator.close(), query.close()])
  }
}

/** The batch's prompts over the first documents of each pool, with memories as long as stage 2 makes them. */
function generatorBatch({ rows, pools, memories }: RetrievalBatch, topK: number): ReadingBatch {
  const longest = longestMemory(memories)
  const padded = ({ tokens, shape: [, width] }: Memory): Memory => {
    const all = new Float32Array(longest * width)
    all.set(tokens)
    return { tokens: all, shape: [longest, width] }
  }
  return {
    rows,
    memories: pools.flatMap((pool) => pool.slice(0, topK).flatMap((place) => memories[place] ?? [])).map(padded),
  }
}

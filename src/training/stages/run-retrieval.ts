import { join } from 'node:path'
import { cacheFolder } from '../../checkpoint/tensor-cache.ts'
import { QUERY_PROJECTION } from '../../clara/compressor.ts'
import { openRuntime } from '../../runtime/runtime.ts'
import { recordRun } from '../run-folder.ts'
import { train } from '../trainer.ts'
import { retrievalOf, type StageConfig } from './config.ts'
import { frozenStart } from './frozen-start.ts'
import { stageTools } from './material.ts'
import { memoryBanks } from './memory-banks.ts'
import { minedSource, openMiner } from './mining.ts'
import { beginProjection } from './projection.ts'
import { openRetrieval, type RetrievalModelOptions } from './retrieval.ts'
import { assembledSource, assembly, retrievalPlans } from './retrieval-batches.ts'
import { createCorpus, type RetrievalQuestion, readQuestions } from './retrieval-data.ts'
import { retrievalEvaluation } from './retrieval-evaluation.ts'
import type { RetrievalObjective } from './retrieval-graph.ts'
import type { StageResult, StageRunOptions } from './run.ts'
import { stageModelOptions } from './set-up.ts'

/** The query reasoner learns over memory that stays as it is, and in stage 2 the generator with it. */
export async function runRetrieval({ config, ...options }: StageRunOptions): Promise<StageResult> {
  const settings = retrievalOf(config)
  const objective: RetrievalObjective = config.stage === 'stage2' ? 'answer' : 'contrastive'
  const tools = await stageTools(config)
  const { optionsAt } = tools
  const [rate = 1] = config.compressionRates
  const corpus = createCorpus(optionsAt(rate))
  const filled = settings.negatives !== 'dataset' || settings.inBatch === true
  const reading = {
    corpus,
    samples: optionsAt(rate),
    labelled: objective === 'contrastive',
    ...(objective === 'answer' && !filled ? { least: settings.topK } : {}),
  }
  const files = await readInTurn(config.data, reading)
  // mined and random negatives come from the training files alone
  const trained = corpus.texts.length
  const asked = await evaluationQuestions(config, reading)

  const resume = options.resume ?? false
  const start = await frozenStart(config, tools, corpus.texts.slice(0, trained), resume)
  await using runtime = await openRuntime(config.threads === undefined ? {} : { threads: config.threads })
  const model: RetrievalModelOptions = {
    ...stageModelOptions(config, tools, { runtime, ...start }),
    objective,
    topK: settings.topK,
    temperature: settings.temperature,
    projected: settings.projection,
  }
  await using banks = memoryBanks(model, config.memoryCache ?? join(cacheFolder(), 'memory'))
  const bankAt = banks.at
  const all = corpus.texts.map((_, number) => corpus.document(number))
  // a file that has changed since the run began is told before anything is compressed
  await recordRun(config, resume)
  for (const each of new Set(config.compressionRates)) {
    await (await bankAt(each)).prepare(all, { signal: options.signal, onProgress: options.progress?.compressed })
  }

  const projection = model.parameters.get(QUERY_PROJECTION)
  // from what is trained on alone: no text of an evaluation has a say
  if (projection && !resume) await beginProjection(projection, await bankAt(rate), all.slice(0, trained))

  const learning = await openRetrieval(model)
  const plans = retrievalPlans(config, files)
  const seen = { ...corpus, texts: corpus.texts.slice(0, trained) }
  const common = { settings, objective, optionsAt, bankAt }
  const assemble = assembly({
    ...common,
    corpus: seen,
    fill: settings.negatives === 'dataset' ? 0 : settings.poolSize,
    inBatch: settings.inBatch ?? objective === 'contrastive',
  })
  const batches =
    settings.negatives === 'mined'
      ? minedSource({
          plans,
          assemble,
          mine: await openMiner({ model, corpus: seen, settings, optionsAt, bankAt }),
          every: settings.refresh * config.accumulate,
          seed: config.seed,
        })
      : assembledSource(plans, assemble)
  const evaluate =
    asked.length > 0 &&
    (await retrievalEvaluation(asked, model, {
      // each question among its own candidates
      assemble: assembly({ ...common, corpus, fill: objective === 'answer' ? settings.topK : 0, inBatch: false }),
      batchSize: config.batchSize,
      rate,
    }))
  await start.keep(learning.parameters.keys())
  const result = await train({
    model: learning,
    batches,
    config,
    runFolder: config.output,
    ...options,
    ...(evaluate ? { evaluate } : {}),
  })
  return { ...result, compressed: banks.compressed }
}

/** Reads files one after the other, so that texts always get the same numbers. */
async function readInTurn(
  data: StageConfig['data'],
  reading: Parameters<typeof readQuestions>[1],
): Promise<RetrievalQuestion[][]> {
  const files: RetrievalQuestion[][] = []
  for (const file of data) files.push(await readQuestions(file, reading))
  return files
}

/** Questions of the evaluation's files, spread over each. */
async function evaluationQuestions(
  { evaluation: { data, samples } }: StageConfig,
  reading: Parameters<typeof readQuestions>[1],
): Promise<RetrievalQuestion[]> {
  return (await readInTurn(data, reading)).flatMap((questions) => {
    const every = Math.max(1, Math.floor(questions.length / samples))
    return questions.filter((_, index) => index % every === 0).slice(0, samples)
  })
}

import { openWeights } from '../checkpoint/weights.ts'
import { Clara } from '../clara/clara.ts'
import { basePlaces, checkBaseFingerprint, readModelFile } from '../clara/model-folder.ts'
import { openModel } from '../clara/open.ts'
import type { WeightKind } from '../model/weight-kinds.ts'
import { type Compared, compared, type Found, modeName } from './compared.ts'
import { type AnswerLosses, openAnswerLosses } from './losses.ts'
import { evaluateReader, type ReaderMode, type ReaderQuestion, type ReaderScores, readerQuestions } from './reader.ts'
import { evaluateRetrieval, type RetrievalComparison } from './retrieval.ts'

export interface ReportOptions {
  /** Folder of the model. */
  readonly model: string
  /** Base of all models. Default: what each one's configuration names. */
  readonly base?: string | undefined
  /** Folder of a model whose generator was trained on full text, or on an empty background. Default: the model's own reads those. */
  readonly textReader?: string | undefined
  readonly emptyReader?: string | undefined
  /** Passages with questions, or questions with candidates, that are answered and scored. */
  readonly file: string
  /** Further files whose answers' losses are taken. */
  readonly losses: readonly string[]
  /** Files of questions with candidates, to be ranked. */
  readonly retrieval: readonly string[]
  /** Questions of each file, at most. */
  readonly questions: number
  /** Whether losses are taken at all: they hold the base at fp32. */
  readonly withLosses: boolean
  /** Text positions per memory token. Empty: the model's own. */
  readonly rates: readonly number[]
  /** How weights are held while answering and ranking; losses are exact. */
  readonly weights: WeightKind
  readonly lowMemory?: boolean
  readonly threads?: number | undefined
  readonly signal?: AbortSignal | undefined
  readonly onNotice?: (message: string) => void
  /** Told how far a figure is. */
  readonly onProgress?: (figure: string, done: number, all: number) => void
  /** Told each figure when it is there. */
  readonly onFigure?: (line: string) => void
}

export interface EvaluationReport {
  readonly file: string
  readonly fingerprint: string
  readonly stage: string
  readonly weights: WeightKind
  /** Who read the full text and the empty background: a folder, or the model itself. */
  readonly readers: { readonly fullText: string; readonly noMemory: string }
  readonly answers: Compared<ReaderScores>
  /** By file, nats a token. */
  readonly losses?: Readonly<Record<string, Compared<number>>>
  /** By file and rate. */
  readonly retrieval?: Readonly<Record<string, Readonly<Record<string, RetrievalComparison>>>>
}

const controls = [
  ['fullText', 'textReader'],
  ['noMemory', 'emptyReader'],
] as const

/**
 * Measures a model and its controls on the same questions: answers, losses, and rankings. Models are open one after the
 * other, so that memory holds one at a time.
 * @throws ClaraError when a reader stands on another base, or a file has no usable questions.
 */
export async function evaluateModel(options: ReportOptions): Promise<EvaluationReport> {
  const { model: folder, signal, onProgress, onFigure = () => {} } = options
  // modes that the model itself reads in, at each rate; the others are left to the readers
  const own = controls.filter(([, reader]) => options[reader] === undefined).map(([mode]) => mode)
  const told = (figure: string) => ({
    signal,
    progress: (done: number, all: number) => onProgress?.(figure, done, all),
  })

  const scores: Found<ReaderScores>[] = []
  const answer = async (clara: Clara, questions: readonly ReaderQuestion[], mode: ReaderMode, rate?: number) => {
    const name = `${options.file}: answers, ${modeName(mode, rate)}`
    const reading = { ...told(name), ...(rate === undefined ? {} : { rate }) }
    const { answers: _, ...figure } = await evaluateReader(clara, questions, mode, reading)
    scores.push({ mode, rate, figure })
    onFigure(`${name}: F1 ${percent(figure.f1)}, EM ${percent(figure.exactMatch)}`)
  }

  const {
    facts,
    rates,
    questions,
    retrieval,
    files: lossFiles,
  } = await withClara(folder, options, async (clara) => {
    const { config, fingerprint, stage, base } = clara.model
    const rates = options.rates.length > 0 ? options.rates : [config.compr_rate]
    const read = (file: string) => readerQuestions(file, options.questions, clara.model)
    const questions = await read(options.file)
    const files = new Map([[options.file, questions]])
    // before anything is measured: what is wrong with a reader or a file is told at once
    for (const [, reader] of controls) {
      const path = options[reader]
      if (path !== undefined) await checkReader(path, options.base, folder, base.fingerprint)
    }
    for (const file of options.withLosses ? options.losses : []) files.set(file, files.get(file) ?? (await read(file)))
    for (const rate of rates) {
      for (const mode of ['memory', 'wrongMemory'] as const) await answer(clara, questions, mode, rate)
    }
    for (const mode of own) await answer(clara, questions, mode)
    const retrieval: Record<string, Record<string, RetrievalComparison>> = {}
    for (const file of options.retrieval) {
      for (const rate of rates) {
        const name = `${file}: ranking at ${rate}x`
        const found = await evaluateRetrieval(clara, file, { count: options.questions, rate, ...told(name) })
        retrieval[file] = { ...retrieval[file], [`${rate}x`]: found }
        const { queryReasoner, bm25 } = found
        onFigure(`${name}: recall@5 ${queryReasoner.recallAt5.toFixed(3)} (BM25 ${bm25.recallAt5.toFixed(3)})`)
      }
    }
    return { facts: { fingerprint, stage }, rates, questions, retrieval, files }
  })

  for (const [mode, reader] of controls) {
    const path = options[reader]
    if (path === undefined) continue
    await withClara(path, options, (clara) => answer(clara, questions, mode))
  }

  const losses = options.withLosses ? await measureLosses({ ...options, rates }, lossFiles, own, told) : undefined
  return {
    file: options.file,
    ...facts,
    weights: options.weights,
    readers: { fullText: options.textReader ?? 'the model', noMemory: options.emptyReader ?? 'the model' },
    answers: compared(questions.length, scores, ({ f1 }) => f1),
    ...(losses ? { losses } : {}),
    ...(options.retrieval.length > 0 ? { retrieval } : {}),
  }
}

/** That a reader stands on the base of the measured model, and that this base is where the reader says. */
async function checkReader(path: string, base: string | undefined, model: string, fingerprint: string): Promise<void> {
  const file = await readModelFile(path)
  checkBaseFingerprint(path, file, model, fingerprint)
  await using _weights = await openWeights(basePlaces(path, file, base).base)
}

/** The losses of some files, each model at fp32 and open by itself. */
async function measureLosses(
  options: ReportOptions,
  files: ReadonlyMap<string, readonly ReaderQuestion[]>,
  own: readonly ReaderMode[],
  told: (figure: string) => { signal: AbortSignal | undefined; progress: (done: number, all: number) => void },
): Promise<Record<string, Compared<number>>> {
  const found = new Map<string, Found<number>[]>()
  const take = async (losses: AnswerLosses, mode: ReaderMode, given?: number) => {
    for (const [file, questions] of files) {
      const name = `${file}: loss, ${modeName(mode, given)}`
      const rate = given ?? options.rates[0] ?? 1
      const figure = await losses.mean(mode, questions, { rate, ...told(name) })
      found.set(file, [...(found.get(file) ?? []), { mode, rate: given, figure }])
      options.onFigure?.(`${name}: ${figure.toFixed(3)}`)
    }
  }
  {
    const model = await openModel(options.model, { base: options.base })
    await using losses = await openAnswerLosses(model, options.threads)
    for (const rate of options.rates) {
      for (const mode of ['memory', 'wrongMemory'] as const) await take(losses, mode, rate)
    }
    for (const mode of own) await take(losses, mode)
  }
  for (const [mode, reader] of controls) {
    const path = options[reader]
    if (path === undefined) continue
    await using losses = await openAnswerLosses(await openModel(path, { base: options.base }), options.threads)
    await take(losses, mode)
  }
  return Object.fromEntries(
    [...files].map(([file, questions]) => [file, compared(questions.length, found.get(file) ?? [], (loss) => loss)]),
  )
}

async function withClara<Result>(
  folder: string,
  { base, weights, lowMemory, threads, onNotice }: ReportOptions,
  use: (clara: Clara) => Promise<Result>,
): Promise<Result> {
  await using clara = await Clara.load(folder, {
    base,
    weights,
    onNotice,
    ...(lowMemory === undefined ? {} : { lowMemory }),
    ...(threads === undefined ? {} : { threads }),
  })
  return await use(clara)
}

const percent = (value: number) => (100 * value).toFixed(1)

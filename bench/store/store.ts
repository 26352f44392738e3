import { measureGrowth } from './growth.ts'
import { measureLossChange } from './loss.ts'
import { compressAll, readPassages, readQuestions } from './material.ts'
import { measureRetrieval, type RetrievalFigures } from './retrieval.ts'
import type { StoreSizes } from './sizes.ts'

export interface StoreOptions {
  /** Folder of the model. */
  readonly model: string
  /** JSON lines of questions with candidate passages: the passages come from the first, the questions from the second. */
  readonly train: readonly string[]
  readonly dev: readonly string[]
  /** JSON lines of passages with questions about them. */
  readonly passages: string
  readonly threads: number
  /** Folder for stores; about 20 kB a passage. */
  readonly work: string
  readonly sizes: StoreSizes
  /** Whether search times of a small and a large store are compared. */
  readonly growth: boolean
}

/** All figures of the store, as `npm run bench -- store --json` prints them. docs/store.md says what each is. */
export interface StoreFigures {
  readonly threads: number
  readonly store: RetrievalFigures & {
    readonly growth?: number
    readonly growthMs?: { readonly small: number; readonly large: number }
    readonly int8LossChange: number
  }
}

/** @param report Told what is being measured, for people who wait. */
export async function measureStore(
  { model, train, dev, passages, threads, work, sizes, growth: withGrowth }: StoreOptions,
  report: (measuring: string) => void,
): Promise<StoreFigures> {
  report('answers from int8 memory')
  const int8LossChange = await measureLossChange({ model, passages, documents: sizes.lossPassages, threads })
  report('compressing passages')
  const material = await compressAll(
    model,
    await readPassages(train, sizes.realPassages),
    await readQuestions(dev, sizes.questions),
    threads,
  )
  const { batch } = sizes
  const retrieval = await measureRetrieval({ material, passages: sizes.passages, batch, threads, work }, report)
  if (!withGrowth) return { threads, store: { ...retrieval, int8LossChange } }
  report(`so far ${JSON.stringify({ ...retrieval, int8LossChange })}`)
  const longest = material.passages.reduce((most, { memory }) => Math.max(most, memory.shape[0]), 1)
  const width = material.passages[0]?.memory.shape[1] ?? 1
  const { growth, smallMs, largeMs } = await measureGrowth(
    { sizes: sizes.growth, questions: sizes.growthQuestions, batch, shape: [longest, width], work },
    report,
  )
  return { threads, store: { ...retrieval, growth, growthMs: { small: smallMs, large: largeMs }, int8LossChange } }
}

import { z } from 'zod'
import { type WeightKind, weightKinds } from '../../src/model/weight-kinds.ts'
import { runChild } from '../child.ts'

export interface WeightsOptions {
  /** Folder of the model. */
  readonly model: string
  /** JSON lines of passages with questions. */
  readonly passages: string
  /** How many of them are compressed, and asked about, one question each. */
  readonly documents: number
  /** Tokens of the measured stretch of an answer. */
  readonly newTokens: number
  readonly threads: number
  readonly repetitions: number
  /** Folder for quantised weights and the memories that the kinds are compared by. */
  readonly work: string
}

const kindFigures = z.object({
  /** Linear layers, head and what of the embedding is in memory. */
  weightsMiB: z.number(),
  /** Resident memory of the process at its highest. */
  peakMiB: z.number(),
  documentsPerSecond: z.number(),
  tokensPerSecond: z.number(),
  meanCosine: z.number(),
  minCosine: z.number(),
  /** Mean loss of the answers' tokens in nats, read from memory of the same kind. */
  answerLoss: z.number(),
  /** The same less that of fp32. */
  lossChange: z.number().optional(),
})
export type KindFigures = z.infer<typeof kindFigures>

/** Figures of every kind of weights, each measured in a process of its own. */
export async function measureWeights(
  options: WeightsOptions,
  report: (measuring: string) => void,
): Promise<Record<WeightKind, KindFigures>> {
  const figures: Partial<Record<WeightKind, KindFigures>> = {}
  for (const kind of weightKinds) {
    report(`weights as ${kind}`)
    const found = kindFigures.parse(await runChild('./weights-child.ts', { ...options, kind }))
    const exact = figures.fp32 ?? found
    figures[kind] = { ...found, lossChange: found.answerLoss - exact.answerLoss }
  }
  return figures as Record<WeightKind, KindFigures>
}

const columns: readonly [title: string, show: (figures: KindFigures) => string][] = [
  ['weights, MiB', ({ weightsMiB }) => weightsMiB.toFixed(0)],
  ['peak of the process, MiB', ({ peakMiB }) => peakMiB.toFixed(0)],
  ['documents/s', ({ documentsPerSecond }) => documentsPerSecond.toFixed(2)],
  ['tokens/s', ({ tokensPerSecond }) => tokensPerSecond.toFixed(1)],
  ['cosine, mean', ({ meanCosine }) => meanCosine.toFixed(5)],
  ['cosine, least', ({ minCosine }) => minCosine.toFixed(4)],
  ['answer loss', ({ answerLoss }) => answerLoss.toFixed(4)],
  ['change', ({ lossChange = 0 }) => `${lossChange < 0 ? '' : '+'}${lossChange.toFixed(4)}`],
]

/** The table of docs/quantisation.md. */
export function weightsTable(figures: Readonly<Record<WeightKind, KindFigures>>): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`
  return [
    line(['weights', ...columns.map(([title]) => title)]),
    line(['---', ...columns.map(() => '---')]),
    ...weightKinds.map((kind) => line([kind, ...columns.map(([, show]) => show(figures[kind]))])),
  ].join('\n')
}

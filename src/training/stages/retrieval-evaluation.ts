import type { HostTensor } from '../../graph/dtype.ts'
import {
  openRetrievalEvaluation,
  type RetrievalBatch,
  type RetrievalModelOptions,
  retrievalLabels,
} from './retrieval.ts'
import type { Assemble } from './retrieval-batches.ts'
import type { RetrievalQuestion } from './retrieval-data.ts'

/** Places that recall is told at. */
const RECALL_AT = [1, 5]

/**
 * Figures of a stage that retrieves, on questions of its own: the loss of its objective, recall (the share of a question's
 * supporting documents among the best 1 and 5 of its pool) and the mean reciprocal rank of the first of them.
 */
export async function retrievalEvaluation(
  questions: readonly RetrievalQuestion[],
  options: RetrievalModelOptions,
  { assemble, batchSize, rate }: { readonly assemble: Assemble; readonly batchSize: number; readonly rate: number },
): Promise<() => Promise<Record<string, number>>> {
  const model = await openRetrievalEvaluation(options)
  return async () => {
    let loss = 0
    let labels = 0
    const ranks: number[][] = []
    for (let start = 0; start < questions.length; start += batchSize) {
      // the seed orders pools, so that a tie is not decided by the order of the dataset
      const batch = await assemble({ questions: questions.slice(start, start + batchSize), rate, seed: start })
      const results = await model.outputs(batch)
      const count = retrievalLabels(batch, options.objective)
      loss += Number(results['loss']?.data[0]) * count
      labels += count
      ranks.push(...relevantRanks(batch, results['scores']).filter((row) => row.length > 0))
    }
    const mean = (of: (row: readonly number[]) => number) => ranks.reduce((sum, row) => sum + of(row), 0) / ranks.length
    const recall = RECALL_AT.map((k): [string, number] => [
      `recallAt${k}`,
      mean((row) => row.filter((rank) => rank <= k).length / row.length),
    ])
    return {
      loss: loss / labels,
      ...(ranks.length > 0 ? { ...Object.fromEntries(recall), mrr: mean(([first = 1]) => 1 / first) } : {}),
    }
  }
}

/** Ranks of each question's relevant documents in its pool, from 1, ascending. */
function relevantRanks({ pools, relevant }: RetrievalBatch, scores: HostTensor | undefined): number[][] {
  const [, width = 0] = scores?.dims ?? []
  return pools.map((pool, row) => {
    const score = (place: number) => Number(scores?.data[row * width + place])
    const order = [...pool].sort((left, right) => score(right) - score(left))
    return (relevant[row] ?? []).map((place) => order.indexOf(place) + 1).sort((left, right) => left - right)
  })
}

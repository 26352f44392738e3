import type { Clara } from '../clara/clara.ts'
import { loadJsonLines } from '../data/jsonl.ts'
import { poolQuestionSchema } from '../data/schemas.ts'
import { ClaraError } from '../errors.ts'
import { indexBm25 } from './bm25.ts'
import { type JudgedRanking, meanReciprocalRank, recallAt } from './metrics.ts'

export interface RetrievalScores {
  /** Share of a question's supporting passages among the first one or five, mean over questions. */
  readonly recallAt1: number
  readonly recallAt5: number
  /** Mean reciprocal rank of the first supporting passage. */
  readonly meanReciprocalRank: number
}

/** Rankings of the same candidates. */
export interface RetrievalComparison {
  readonly questions: number
  /** Memory of the question by the query reasoner; by the compressor where the model has no reasoner. */
  readonly queryReasoner: RetrievalScores
  /** Memory of the question by the compressor itself. */
  readonly compressor: RetrievalScores
  readonly bm25: RetrievalScores
}

export interface RetrievalEvaluationOptions {
  /** Questions, spread over the file; those without a supporting candidate are left out. */
  readonly count: number
  /** Text positions per memory token, of questions and passages. Default: the model's own. */
  readonly rate?: number
  readonly signal?: AbortSignal | undefined
  readonly progress?: (done: number, all: number) => void
}

/** How well the supporting ones are found among each question's own candidates. */
export async function evaluateRetrieval(
  clara: Clara,
  file: string,
  options: RetrievalEvaluationOptions,
): Promise<RetrievalComparison> {
  const { count, rate, signal, progress } = options
  const compress = { ...(rate === undefined ? {} : { rate }), ...(signal ? { signal } : {}) }
  const all = await loadJsonLines(file, poolQuestionSchema)
  const judged = all.filter(({ candidates }) => candidates.some(({ supporting }) => supporting))
  if (judged.length === 0) {
    throw new ClaraError(`No question of ${file} has a supporting candidate.`, {
      expected: 'candidates of which some are marked as supporting',
    })
  }
  const every = Math.max(1, judged.length / count)
  const questions = judged
    .filter((_, index) => Math.floor(index / every) !== Math.floor((index - 1) / every))
    .slice(0, count)
  const rankings = {
    queryReasoner: [] as JudgedRanking[],
    compressor: [] as JudgedRanking[],
    bm25: [] as JudgedRanking[],
  }
  for (const [done, { question, candidates }] of questions.entries()) {
    signal?.throwIfAborted()
    const texts = candidates.map(({ title, text }) => (title === '' ? text : `${title}: ${text}`))
    // far more than a compressor reads
    const memories = await clara.compressDocuments(
      texts.map((text) => text.slice(0, 4000)),
      compress,
    )
    const [asked] = await clara.compressQuestions([question], compress)
    const [compressed] = await clara.compressDocuments([question], compress)
    const relevant = candidates.flatMap(({ supporting }, index) => (supporting ? [String(index)] : []))
    const by = (memory: typeof asked) => memories.map((candidate) => (memory ? clara.score(memory, candidate) : 0))
    rankings.queryReasoner.push({ ranking: ranked(by(asked)), relevant })
    rankings.compressor.push({ ranking: ranked(by(compressed)), relevant })
    rankings.bm25.push({ ranking: ranked(indexBm25(texts).scores(question)), relevant })
    progress?.(done + 1, questions.length)
  }
  return {
    questions: questions.length,
    queryReasoner: scoresOf(rankings.queryReasoner),
    compressor: scoresOf(rankings.compressor),
    bm25: scoresOf(rankings.bm25),
  }
}

/** Places by score, the best first, equal ones in their order. */
const ranked = (scores: ArrayLike<number>): string[] =>
  Array.from(scores, (_, index) => index)
    .sort((a, b) => (scores[b] ?? 0) - (scores[a] ?? 0) || a - b)
    .map(String)

function scoresOf(rankings: readonly JudgedRanking[]): RetrievalScores {
  const recall = (k: number) =>
    rankings.reduce((sum, { ranking, relevant }) => sum + recallAt(k, ranking, relevant), 0) / rankings.length
  return { recallAt1: recall(1), recallAt5: recall(5), meanReciprocalRank: meanReciprocalRank(rankings) }
}

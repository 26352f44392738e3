import type { Clara } from '../clara/clara.ts'
import { loadJsonLines } from '../data/jsonl.ts'
import { poolQuestionSchema } from '../data/schemas.ts'
import { indexBm25 } from './bm25.ts'
import { recallAt } from './metrics.ts'

export interface RetrievalScores {
  readonly questions: number
  /** Share of a question's supporting passages among the first five, mean over questions. */
  readonly recallAt5: number
  readonly recallAt1: number
}

/** Recall of the query reasoner among each question's own candidates, beside BM25 on the same ones. */
export async function evaluateRetrieval(
  clara: Clara,
  file: string,
  count: number,
  progress?: (done: number, all: number) => void,
): Promise<{ readonly latent: RetrievalScores; readonly bm25: RetrievalScores }> {
  const all = await loadJsonLines(file, poolQuestionSchema)
  const every = Math.max(1, all.length / count)
  const questions = all
    .filter((_, index) => Math.floor(index / every) !== Math.floor((index - 1) / every))
    .slice(0, count)
  const rankings: { latent: string[]; bm25: string[]; relevant: string[] }[] = []
  for (const { question, candidates } of questions) {
    const texts = candidates.map(({ title, text }) => (title === '' ? text : `${title}: ${text}`))
    const [asked] = await clara.compressQuestions([question])
    const memories = await clara.compressDocuments(texts.map((text) => text.slice(0, 4000)))
    const scores = memories.map((memory) => (asked ? clara.score(asked, memory) : 0))
    const lexical = indexBm25(texts).scores(question)
    const ranked = (of: ArrayLike<number>) =>
      texts
        .map((_, index) => index)
        .sort((a, b) => (of[b] ?? 0) - (of[a] ?? 0) || a - b)
        .map(String)
    rankings.push({
      latent: ranked(scores),
      bm25: ranked(lexical),
      relevant: candidates.flatMap(({ supporting }, index) => (supporting ? [String(index)] : [])),
    })
    progress?.(rankings.length, questions.length)
  }
  const scores = (kind: 'latent' | 'bm25'): RetrievalScores => {
    const mean = (k: number) =>
      rankings.reduce((sum, row) => sum + recallAt(k, row[kind], row.relevant), 0) / rankings.length
    return { questions: rankings.length, recallAt1: mean(1), recallAt5: mean(5) }
  }
  return { latent: scores('latent'), bm25: scores('bm25') }
}

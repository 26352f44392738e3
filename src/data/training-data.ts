import { readRecords, type TrainingRecord } from './records.ts'
import type { Paraphrase, Passage, PoolQuestion } from './schemas.ts'

/** A text with questions about it. */
export interface TrainingPassage extends Pick<Passage, 'text' | 'qa'> {
  /** Answers in the answerer's own words, which need not occur in the text (published data). Default: false. */
  readonly free?: boolean
}

/** The records of a file as the stages learn from them. */
export interface TrainingData {
  /** Texts with several questions about each. */
  readonly passages: readonly TrainingPassage[]
  /** Questions over one or more documents; where a dataset does not say which of them support the answer, all do. */
  readonly pools: readonly Pick<PoolQuestion, 'question' | 'answers' | 'candidates'>[]
  readonly paraphrases: readonly Pick<Paraphrase, 'text' | 'paraphrase'>[]
}

/**
 * Reads a dataset file of any format.
 * @throws ClaraError that names file and line of what is no record.
 */
export async function loadTrainingData(path: string): Promise<TrainingData> {
  const passages: TrainingPassage[] = []
  const pools: Pick<PoolQuestion, 'question' | 'answers' | 'candidates'>[] = []
  const paraphrases: Pick<Paraphrase, 'text' | 'paraphrase'>[] = []
  for await (const record of readRecords(path)) {
    const text = record.documents[0]?.text ?? ''
    const qa = record.questions.map(({ question, answers }) => ({ question, answers: [...answers] }))
    if (record.kind === 'paraphrase') paraphrases.push({ text, paraphrase: qa[0]?.answers[0] ?? '' })
    else if (record.kind === 'passage' && record.documents.length === 1) {
      passages.push({ text, qa, ...(record.positives === undefined ? { free: true } : {}) })
    } else pools.push(...qa.map((pair) => ({ ...pair, candidates: candidatesOf(record) })))
  }
  return { passages, pools, paraphrases }
}

const candidatesOf = ({ documents, positives }: TrainingRecord): PoolQuestion['candidates'] =>
  documents.map((document, index) => ({ ...document, supporting: positives?.includes(index) ?? true }))

import { z } from 'zod'

// Columns that we do not know are dropped, not refused: other people's datasets carry their own. A missing or mistyped
// column is refused.

const text = z.string().min(1)
const answers = z.array(text).min(1)

/** A passage with questions that it answers (squad.*): stage 1 and the reader tasks. */
export const passageSchema = z.object({
  id: text,
  title: z.string().default(''),
  text,
  /** Questions about the passage, each with its accepted answers, the preferred one first. */
  qa: z.array(z.object({ question: text, answers })).min(1),
  source: z.string().default(''),
})
export type Passage = z.output<typeof passageSchema>

/** A text and the same said otherwise (paraphrase.*). */
export const paraphraseSchema = z.object({
  text,
  paraphrase: text,
  source: z.string().default(''),
})
export type Paraphrase = z.output<typeof paraphraseSchema>

/** A question with a pool of candidate passages, of which some support the answer (hotpotqa.*, 2wiki.*, musique.*, nq.*). */
export const poolQuestionSchema = z.object({
  id: text,
  question: text,
  answers,
  /** The dataset's own kind of question, for example `bridge` or `3hop1`. */
  type: z.string().default(''),
  candidates: z.array(z.object({ title: z.string().default(''), text, supporting: z.boolean() })).min(1),
  source: z.string().default(''),
})
export type PoolQuestion = z.output<typeof poolQuestionSchema>

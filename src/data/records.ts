import { z } from 'zod'
import { ClaraError } from '../errors.ts'
import { type JsonLinesLimits, scanJsonLines } from './jsonl.ts'
import { paraphraseSchema, passageSchema, poolQuestionSchema } from './schemas.ts'

/** A text that a record brings along. */
export interface RecordDocument {
  /** Empty where the dataset has none. */
  readonly title: string
  readonly text: string
}

/** A question with its accepted answers, the preferred one first. Reasoning paths (stage2_reasoning) stand as answers too. */
export interface RecordQuestion {
  readonly question: string
  readonly answers: readonly string[]
}

/** One line of any dataset that training reads, whatever its format. */
export interface TrainingRecord {
  /** Empty where the dataset has none. */
  readonly id: string
  /** `passage`: several questions about its documents. `question`: one question over them. `paraphrase`: the first, said otherwise. */
  readonly kind: 'passage' | 'question' | 'paraphrase'
  readonly documents: readonly RecordDocument[]
  /** A paraphrase is the answer to an empty question. */
  readonly questions: readonly RecordQuestion[]
  /** Which documents support the answer, by their place; undefined where the dataset does not say. */
  readonly positives: readonly number[] | undefined
}

/** The formats by name, as they are told apart: by the field that the others lack. */
export type RecordFormat = 'passage' | 'paraphrase' | 'pool' | 'published'

/**
 * What a published row holds (`pretrain_data`, `instruction_tuning_data`, `end_to_end_data`). Other columns are passed over, as
 * people's data brings its own; these are read by their type, as in the published code.
 */
const publishedSchema = z.object({
  id: z.union([z.string(), z.number()]).optional(),
  data_type: z.string().default('qa'),
  question: z.union([z.string(), z.array(z.string())]).optional(),
  pos_index: z.array(z.number().int().nonnegative()).nullish(),
})

const answersSchema = z.array(z.string()).min(1)

/** A line's record, or what is wrong with it. */
export type ParsedRecord =
  | { readonly format: RecordFormat; readonly record: TrainingRecord }
  | { readonly problem: string }

/** Reads one JSON value as a record of whatever format it has. */
export function parseRecord(value: unknown): ParsedRecord {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return { problem: 'not a JSON object' }
  const row = value as Readonly<Record<string, unknown>>
  const has = (key: string) => Object.hasOwn(row, key)
  if (has('qa')) return parsed('passage', passageSchema, row, fromPassage)
  if (has('candidates')) return parsed('pool', poolQuestionSchema, row, fromPool)
  if (has('paraphrase')) return parsed('paraphrase', paraphraseSchema, row, fromParaphrase)
  if (documentsOf(row)) return published(row)
  return { problem: 'it has none of the fields "qa", "candidates", "paraphrase", "docs", "context", "content"' }
}

/**
 * Reads the records of a file one at a time; errors and limits as `readJsonLines`.
 * @throws ClaraError that names file and line of what is no record.
 */
export async function* readRecords(path: string, limits: JsonLinesLimits = {}): AsyncGenerator<TrainingRecord> {
  for await (const line of scanJsonLines(path, limits)) {
    if (line.error) throw line.error
    const result = parseRecord(line.value)
    if ('problem' in result) {
      throw new ClaraError(`${path}:${line.number}: the record does not fit its schema: ${result.problem}.`, {
        hint: `Correct or remove the line; clara data check ${path} lists all such lines.`,
      })
    }
    yield result.record
  }
}

function parsed<Schema extends z.ZodType>(
  format: RecordFormat,
  schema: Schema,
  row: unknown,
  convert: (record: z.output<Schema>) => TrainingRecord,
): ParsedRecord {
  const result = schema.safeParse(row)
  if (result.success) return { format, record: convert(result.data) }
  const [issue] = result.error.issues
  return { problem: `"${issue?.path.join('.')}": ${issue?.message}` }
}

const fromPassage = ({ id, title, text, qa }: z.output<typeof passageSchema>): TrainingRecord => ({
  id,
  kind: 'passage',
  documents: [{ title, text }],
  questions: qa,
  positives: [0],
})

const fromPool = ({ id, question, answers, candidates }: z.output<typeof poolQuestionSchema>): TrainingRecord => ({
  id,
  kind: 'question',
  documents: candidates.map(({ title, text }) => ({ title, text })),
  questions: [{ question, answers }],
  positives: candidates.flatMap(({ supporting }, index) => (supporting ? [index] : [])),
})

const fromParaphrase = ({ text, paraphrase }: z.output<typeof paraphraseSchema>): TrainingRecord => ({
  id: '',
  kind: 'paraphrase',
  documents: [{ title: '', text }],
  questions: [{ question: '', answers: [paraphrase] }],
  positives: [0],
})

function documentsOf(row: Readonly<Record<string, unknown>>): readonly unknown[] | undefined {
  for (const key of ['docs', 'context', 'content']) {
    const value = Object.hasOwn(row, key) ? row[key] : undefined
    if (Array.isArray(value)) return value
  }
  return undefined
}

function published(row: Readonly<Record<string, unknown>>): ParsedRecord {
  const texts = documentsOf(row) ?? []
  if (texts.length === 0) return { problem: 'it has no documents' }
  const documents: RecordDocument[] = []
  for (const [index, text] of texts.entries()) {
    if (typeof text !== 'string') return { problem: `document ${index} is not text` }
    if (text.trim() === '') return { problem: `document ${index} is empty` }
    documents.push({ title: '', text })
  }
  const fields = publishedSchema.safeParse(row)
  if (!fields.success) {
    const [issue] = fields.error.issues
    return { problem: `"${issue?.path.join('.')}": ${issue?.message}` }
  }
  const { id = '', data_type: type, question, pos_index: positives } = fields.data
  const beyond = positives?.find((index) => index >= documents.length)
  if (beyond !== undefined) {
    return { problem: `"pos_index" names document ${beyond}, but there are only ${documents.length}, counted from 0` }
  }
  const answers = answersOf(row)
  if ('problem' in answers) return answers
  const common = { id: String(id), documents, positives: positives ?? undefined }
  if (type === 'paraphrase') {
    const questions = [{ question: '', answers: answers.list.slice(0, 1) }]
    return { format: 'published', record: { ...common, kind: 'paraphrase', questions } }
  }
  if (typeof question === 'string') {
    if (question.trim() === '') return { problem: '"question" is empty' }
    const questions = [{ question, answers: answers.list }]
    return { format: 'published', record: { ...common, kind: 'question', questions } }
  }
  if (question === undefined || question.length === 0) return { problem: '"question" is missing' }
  if (question.length !== answers.list.length) {
    return { problem: `there are ${question.length} questions and ${answers.list.length} answers` }
  }
  const empty = question.findIndex((text) => text.trim() === '')
  if (empty >= 0) return { problem: `"question.${empty}" is empty` }
  const questions = question.map((text, index) => ({ question: text, answers: answers.list.slice(index, index + 1) }))
  return { format: 'published', record: { ...common, kind: 'passage', questions } }
}

/** `answer` as text, else `answers` as a list, else the first of `golden_answers`, else `gold_answer`. */
function answersOf(row: Readonly<Record<string, unknown>>): { list: readonly string[] } | { problem: string } {
  const field = (key: string) => (Object.hasOwn(row, key) ? row[key] : undefined)
  const [answer, answers, golden, gold] = [
    field('answer'),
    field('answers'),
    field('golden_answers'),
    field('gold_answer'),
  ]
  const [name, list] =
    typeof answer === 'string'
      ? ['answer', [answer]]
      : Array.isArray(answers)
        ? ['answers', answers]
        : Array.isArray(golden)
          ? ['golden_answers', golden.slice(0, 1)]
          : ['gold_answer', gold === undefined ? [] : [gold]]
  const checked = answersSchema.safeParse(list)
  if (!checked.success) {
    return list.length === 0
      ? { problem: 'it has none of the fields "answer", "answers", "golden_answers", "gold_answer"' }
      : { problem: `"${name}" is not text` }
  }
  return checked.data.some((text) => text.trim() === '') ? { problem: `"${name}" is empty` } : { list: checked.data }
}

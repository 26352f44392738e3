import { ClaraError } from '../errors.ts'
import { type Distribution, distribution } from './distribution.ts'
import { scanJsonLines } from './jsonl.ts'
import { parseRecord, type RecordFormat, readRecords, type TrainingRecord } from './records.ts'

/** A text in tokens, as far as the check needs it. */
export interface CutText {
  readonly tokens: number
  /** The text as far as the compressor reads it. */
  readonly kept: string
}

export interface CheckOptions {
  /** Measures a text and cuts it to the compressor's length. */
  readonly cut: (text: string) => CutText
  /** Longest document, in tokens: what {@link CheckOptions.cut} cuts to. */
  readonly docMaxLength: number
  /** Files whose texts and questions this one should not hold: those that results are reported on. */
  readonly against?: readonly string[]
  /** Records to show. Default: 3, the first. */
  readonly samples?: number
  /** Called every now and then with the lines read. */
  readonly progress?: (lines: number) => void
  readonly signal?: AbortSignal
}

/** What can be wrong with a file, worst first; the first kind stops a training run, the others are for the reader to judge. */
export const problemKinds = {
  unreadable: 'lines that are no record',
  emptyDocument: 'documents without text',
  noPositive: 'questions whose candidates hold none that supports the answer',
  answerAbsent: 'answers that occur in none of the documents they should follow from',
  answerCut: 'answers that occur only past the length that the compressor reads (passages are cut into pieces instead)',
  duplicateRecord: 'records that say the same as an earlier one',
  duplicateQuestion: 'questions asked before over the same documents',
  inOther: 'records with a question or a supporting text of the files to keep apart from',
} as const
export type ProblemKind = keyof typeof problemKinds

export interface Problem {
  readonly kind: ProblemKind
  readonly count: number
  /** The first few: line number and what is there. */
  readonly examples: readonly { readonly line: number; readonly what: string }[]
}

/** What a file shares with another. */
export interface Overlap {
  readonly file: string
  /** Distinct document texts in both. */
  readonly documents: number
  /** Distinct texts of the other file's supporting documents that occur here. */
  readonly positives: number
  /** Distinct questions in both. */
  readonly questions: number
}

export interface DataReport {
  readonly file: string
  readonly formats: Readonly<Partial<Record<RecordFormat, number>>>
  readonly records: number
  readonly documents: { readonly all: number; readonly distinct: number; readonly perRecord: Distribution }
  readonly questions: number
  /** Questions that know which of their documents support the answer. */
  readonly withPositives: number
  /** Lengths in tokens: of distinct documents, of questions, and of the preferred answers. */
  readonly tokens: {
    readonly documents: Distribution
    readonly questions: Distribution
    readonly answers: Distribution
  }
  /** Distinct documents longer than the compressor reads, and the tokens past that length. */
  readonly truncation: { readonly docMaxLength: number; readonly documents: number; readonly tokens: number }
  readonly problems: readonly Problem[]
  readonly overlaps: readonly Overlap[]
  readonly samples: readonly { readonly line: number; readonly record: TrainingRecord }[]
}

const EXAMPLES = 5

/** Texts that differ in white space and case alone are the same text. */
const normal = (text: string): string => text.toLowerCase().replace(/\s+/g, ' ').trim()

/** Reads a whole dataset file, any format, and says what is in it and what is wrong with it. */
export async function checkData(file: string, options: CheckOptions): Promise<DataReport> {
  const others = await Promise.all((options.against ?? []).map(textsOf))
  const problems = problemList()
  const counts = { records: 0, documents: 0, questions: 0, withPositives: 0 }
  const formats: Partial<Record<RecordFormat, number>> = {}
  const lengths = { perRecord: [] as number[], questions: [] as number[], answers: [] as number[] }
  /** By normalised text: as the compressor reads it. */
  const documents = new Map<string, CutText>()
  const records = new Map<string, number>()
  const asked = new Map<string, number>()
  const questionTexts = new Set<string>()
  const samples: { line: number; record: TrainingRecord }[] = []

  for await (const { number: line, value, error } of scanJsonLines(file)) {
    options.signal?.throwIfAborted()
    if (line % 100 === 0) options.progress?.(line)
    const result = error ? { problem: error.message } : parseRecord(value)
    if ('problem' in result) {
      problems.add('unreadable', line, result.problem)
      continue
    }
    const { record, format } = result
    formats[format] = (formats[format] ?? 0) + 1
    counts.records += 1
    if (samples.length < (options.samples ?? 3)) samples.push({ line, record })
    lengths.perRecord.push(record.documents.length)
    counts.documents += record.documents.length
    const texts = record.documents.map(({ text }) => normal(text))
    const cuts = record.documents.map(({ text }, index) => {
      const key = texts[index] ?? ''
      const cut = documents.get(key) ?? options.cut(text)
      documents.set(key, cut)
      if (key === '') problems.add('emptyDocument', line, `document ${index}`)
      return cut
    })
    const whole = JSON.stringify([texts, record.questions])
    const earlier = records.get(whole)
    if (earlier !== undefined) problems.add('duplicateRecord', line, `the same as line ${earlier}`)
    else records.set(whole, line)
    if (record.positives?.length === 0) problems.add('noPositive', line, shorten(record.questions[0]?.question ?? ''))
    if (record.positives !== undefined && record.positives.length > 0) counts.withPositives += record.questions.length

    for (const { question, answers } of record.questions) {
      counts.questions += 1
      lengths.answers.push(options.cut(answers[0] ?? '').tokens)
      if (record.kind === 'paraphrase') continue
      lengths.questions.push(options.cut(question).tokens)
      questionTexts.add(normal(question))
      const over = JSON.stringify([texts, normal(question)])
      const before = asked.get(over)
      if (before === undefined) asked.set(over, line)
      else if (earlier === undefined) problems.add('duplicateQuestion', line, `${shorten(question)} (line ${before})`)
      const sought = answers.map(normal)
      const places = record.positives?.length ? record.positives : texts.map((_, index) => index)
      const occurs = (readText: (index: number) => string) =>
        places.some((index) => sought.some((answer) => readText(index).includes(answer)))
      const verdict = sought.every((answer) => answer === 'yes' || answer === 'no')
      const inPieces = record.kind === 'passage' && texts.length === 1
      const example = `${shorten(question)} → ${shorten(answers[0] ?? '')}`
      if (verdict) continue
      if (!occurs((index) => texts[index] ?? '')) problems.add('answerAbsent', line, example)
      else if (!inPieces && !occurs((index) => normal(cuts[index]?.kept ?? '')))
        problems.add('answerCut', line, example)
    }
    const shared = others.find(
      (other) =>
        texts.some((text) => other.positives.has(text)) ||
        record.questions.some(({ question }) => other.questions.has(normal(question))),
    )
    if (shared) problems.add('inOther', line, shared.file)
  }

  const distinct = [...documents.values()].map(({ tokens }) => tokens)
  const tooLong = distinct.filter((tokens) => tokens > options.docMaxLength)
  const shares = (own: { has(text: string): boolean }, texts: ReadonlySet<string>) =>
    [...texts].filter((text) => own.has(text)).length
  return {
    file,
    formats,
    records: counts.records,
    documents: { all: counts.documents, distinct: documents.size, perRecord: distribution(lengths.perRecord) },
    questions: counts.questions,
    withPositives: counts.withPositives,
    tokens: {
      documents: distribution(distinct),
      questions: distribution(lengths.questions),
      answers: distribution(lengths.answers),
    },
    truncation: {
      docMaxLength: options.docMaxLength,
      documents: tooLong.length,
      tokens: tooLong.reduce((sum, tokens) => sum + tokens - options.docMaxLength, 0),
    },
    problems: problems.found(),
    overlaps: others.map((other) => ({
      file: other.file,
      documents: shares(documents, other.documents),
      positives: shares(documents, other.positives),
      questions: shares(questionTexts, other.questions),
    })),
    samples,
  }
}

function problemList() {
  const found = new Map<ProblemKind, { count: number; examples: { line: number; what: string }[] }>()
  return {
    add(kind: ProblemKind, line: number, what: string): void {
      const entry = found.get(kind) ?? { count: 0, examples: [] }
      entry.count += 1
      if (entry.examples.length < EXAMPLES) entry.examples.push({ line, what })
      found.set(kind, entry)
    },
    found: (): Problem[] =>
      (Object.keys(problemKinds) as ProblemKind[]).flatMap((kind) => {
        const entry = found.get(kind)
        return entry ? [{ kind, ...entry }] : []
      }),
  }
}

interface OtherTexts {
  readonly file: string
  readonly documents: ReadonlySet<string>
  readonly positives: ReadonlySet<string>
  readonly questions: ReadonlySet<string>
}

async function textsOf(file: string): Promise<OtherTexts> {
  const [documents, positives, questions] = [new Set<string>(), new Set<string>(), new Set<string>()]
  for await (const record of readRecords(file)) {
    for (const [index, { text }] of record.documents.entries()) {
      documents.add(normal(text))
      if (record.positives?.includes(index)) positives.add(normal(text))
    }
    for (const { question } of record.questions) if (question !== '') questions.add(normal(question))
  }
  if (documents.size === 0) throw new ClaraError(`${file} holds no records to compare with.`)
  return { file, documents, positives, questions }
}

const shorten = (text: string): string => (text.length > 80 ? `${text.slice(0, 79)}…` : text)

import { z } from 'zod'
import type { DataReport } from '../data/check.ts'
import type { Distribution } from '../data/distribution.ts'
import { ClaraError } from '../errors.ts'
import { printable } from './terminal.ts'
import type { VerbContext } from './verb.ts'

export const summary = 'Check dataset files before training on them'

export const options = z.strictObject({
  action: z.enum(['check']).describe('check: counts, lengths, truncation, problems and samples of a file'),
  files: z.array(z.string()).min(1).describe('Dataset files (.jsonl or .jsonl.gz), any format that training reads'),
  against: z
    .array(z.string())
    .default([])
    .describe('Files, such as dev sets, whose texts and questions the others should not hold'),
  docMaxLength: z
    .number()
    .int()
    .positive()
    .default(256)
    .describe('Longest document that the compressor reads, in tokens'),
  tokenizer: z.string().optional().describe("Folder of a tokenizer.json. Default: the embedded model's"),
  samples: z.number().int().nonnegative().default(3).describe('Records to show'),
})

export const positionals = ['action', 'files']

export async function run(values: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const [{ checkData }, { loadTokenizer }, { embeddedModel }, { readModelFile, basePlaces }] = await Promise.all([
    import('../data/check.ts'),
    import('../tokenizer/load.ts'),
    import('../clara/model.ts'),
    import('../clara/model-folder.ts'),
  ])
  const { docMaxLength, against, samples } = values
  const embedded = embeddedModel()
  const tokenizer = await loadTokenizer(
    values.tokenizer ?? basePlaces(embedded, await readModelFile(embedded)).tokenizer,
  )
  const cut = (text: string) => {
    const ids = tokenizer.encode(text)
    const kept = ids.length > docMaxLength ? tokenizer.decode(ids.slice(0, docMaxLength)) : text
    return { tokens: ids.length, kept }
  }
  const reports: DataReport[] = []
  for (const file of values.files) {
    const report = await checkData(file, {
      cut,
      docMaxLength,
      against: against.filter((other) => other !== file),
      samples,
      signal: context.signal,
      progress: (lines) => context.status(`${file}: ${lines} lines`),
    })
    reports.push(report)
    for (const line of await describe(report)) context.print(printable(line))
    context.print('')
  }
  context.report({ files: reports })
  const broken = reports.filter(({ problems }) => problems.some(({ kind }) => kind === 'unreadable'))
  if (broken.length > 0) {
    throw new ClaraError(`Training would refuse ${broken.map(({ file }) => file).join(', ')}.`, {
      hint: 'Correct or remove the lines that are no record.',
    })
  }
}

async function describe(report: DataReport): Promise<string[]> {
  const { problemKinds } = await import('../data/check.ts')
  const { documents, tokens, truncation } = report
  const kinds = Object.entries(report.formats).map(([name, count]) => `${count} ${name}`)
  const share = documents.distinct === 0 ? 0 : (100 * truncation.documents) / documents.distinct
  const lines = [
    `${report.file}: ${report.records} records (${kinds.join(', ') || 'none'})`,
    `  documents  ${documents.all}, ${documents.distinct} distinct, ${documents.perRecord.mean.toFixed(1)} a record`,
    `  questions  ${report.questions}, ${report.withPositives} of them with supporting documents marked`,
    '  tokens         mean    50 %    90 %    99 %     max',
    row('documents', tokens.documents),
    row('questions', tokens.questions),
    row('answers', tokens.answers),
    `  ${truncation.documents} documents (${share.toFixed(1)} %) are longer than ${truncation.docMaxLength} tokens, by ${truncation.tokens} tokens in all`,
  ]
  for (const { file, documents: texts, positives, questions } of report.overlaps) {
    lines.push(`  shares with ${file}: ${texts} texts (${positives} of its supporting ones), ${questions} questions`)
  }
  if (report.problems.length === 0) lines.push('  no problems found')
  for (const { kind, count, examples } of report.problems) {
    lines.push(`  ${count} ${problemKinds[kind]}`)
    for (const { line, what } of examples) lines.push(`    line ${line}: ${what}`)
  }
  for (const { line, record } of report.samples) {
    const [first] = record.questions
    const text = record.documents[record.positives?.[0] ?? 0]?.text ?? ''
    lines.push(`  sample, line ${line}: ${record.kind} over ${record.documents.length} documents`)
    lines.push(`    text      ${oneLine(text)}`)
    if (first?.question) lines.push(`    question  ${oneLine(first.question)}`)
    lines.push(`    answer    ${oneLine(first?.answers[0] ?? '')}`)
  }
  return lines
}

function row(name: string, { mean, p50, p90, p99, max }: Distribution): string {
  return `  ${name.padEnd(10)} ${[mean.toFixed(1), p50, p90, p99, max].map((value) => String(value).padStart(7)).join(' ')}`
}

function oneLine(text: string): string {
  const flat = text.replace(/\s+/g, ' ').trim()
  return flat.length > 100 ? `${flat.slice(0, 99)}…` : flat
}

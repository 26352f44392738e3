import { type Compared, modeName } from './compared.ts'
import type { EvaluationReport } from './report.ts'

/** A report as the tables of a model card, in Markdown. */
export function reportTables(report: EvaluationReport): string[] {
  const { answers, losses, retrieval, readers } = report
  const own = losses?.[report.file]
  const others = Object.entries(losses ?? {}).filter(([file]) => file !== report.file)
  const lines = [
    `${report.file}: ${answers.questions} questions, greedy answers with ${report.weights} weights${own ? ', losses at fp32' : ''}`,
    `Full text is read by ${readers.fullText}, an empty background by ${readers.noMemory}.`,
    '',
    ...table(
      ['reads', 'F1', 'EM', 'cover-EM', 'answer loss, nats a token', 'kept, of F1', 'kept, of the loss'],
      rowsOf(answers).map(({ name, of, rate }) => {
        const { f1, exactMatch, coverExactMatch } = of(answers)
        const kept = (figures: Compared<unknown> | undefined) =>
          fixed(rate === undefined ? undefined : figures?.kept[rate])
        const loss = own && of(own)
        return [name, percent(f1), percent(exactMatch), percent(coverExactMatch), fixed(loss), kept(answers), kept(own)]
      }),
    ),
  ]
  if (others.length > 0) {
    lines.push(
      '',
      ...table(['answer loss', 'questions', ...rowsOf(answers).map(({ name }) => name), 'kept'], others.map(lossRow)),
    )
  }
  if (retrieval) {
    const columns = ['recall@1', 'recall@5', 'MRR']
    lines.push(
      '',
      ...table(['candidates of', 'questions', 'ranked by', ...columns], Object.entries(retrieval).flatMap(rankingRows)),
    )
  }
  return lines

  function lossRow([file, figures]: [string, Compared<number>]): string[] {
    const kept = Object.entries(figures.kept).map(([rate, value]) => `${fixed(value)} at ${rate}`)
    return [file, String(figures.questions), ...rowsOf(figures).map(({ of }) => fixed(of(figures))), kept.join(', ')]
  }
}

/** How to take a row's figure out of any comparison over the same rates. */
interface Row {
  readonly name: string
  /** Where information is kept. */
  readonly rate?: string
  readonly of: <Figure>(figures: Compared<Figure>) => Figure
}

function rowsOf({ memory }: Compared<unknown>): Row[] {
  const at = (rate: string): Row[] => [
    { name: modeName('memory', rate), rate, of: (figures) => required(figures.memory[rate]) },
    { name: modeName('wrongMemory', rate), of: (figures) => required(figures.wrongMemory[rate]) },
  ]
  return [
    ...Object.keys(memory).flatMap(at),
    { name: modeName('noMemory'), of: ({ noMemory }) => noMemory },
    { name: modeName('fullText'), of: ({ fullText }) => fullText },
  ]
}

function required<Figure>(figure: Figure | undefined): Figure {
  if (figure === undefined) throw new RangeError('A rate was not measured.')
  return figure
}

type Rankings = NonNullable<EvaluationReport['retrieval']>[string]

function rankingRows([file, byRate]: [string, Rankings]): string[][] {
  const rates = Object.entries(byRate)
  const rankers = rates.flatMap(([rate, { queryReasoner, compressor }]) => [
    [`query reasoner at ${rate}`, queryReasoner] as const,
    [`compressor at ${rate}`, compressor] as const,
  ])
  const first = rates[0]?.[1]
  // the same at every rate
  const all = first ? [...rankers, ['BM25', first.bm25] as const] : rankers
  return all.map(([name, { recallAt1, recallAt5, meanReciprocalRank }]) => [
    file,
    String(first?.questions ?? 0),
    name,
    ...[recallAt1, recallAt5, meanReciprocalRank].map(fixed),
  ])
}

function table(titles: readonly string[], rows: readonly (readonly string[])[]): string[] {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`
  return [line(titles), line(titles.map(() => '---')), ...rows.map(line)]
}

const percent = (value: number) => (100 * value).toFixed(1)
/** Nothing is kept of nothing: a share has no value where the text helps no more than an empty background. */
const fixed = (value = Number.NaN) => (Number.isFinite(value) ? value.toFixed(3) : '-')

import { printable, type TextStyle, wrap } from '../../src/cli/terminal.ts'
import type { Source } from '../../src/index.ts'

/** One question, answered from memory and by the same model reading the same passages as text. */
export interface DemoAnswer {
  readonly question: string
  readonly answer: string
  /** What the data set gives as right, for the questions that come with the demo. */
  readonly expected?: readonly string[]
  readonly sources: readonly Source[]
  readonly promptTokens: { readonly text: number; readonly memory: number }
  readonly ms: { readonly compress: number; readonly retrieve: number; readonly firstToken: number; readonly total: number }
  readonly fullText: { readonly answer: string; readonly ms: { readonly firstToken: number; readonly total: number } }
}

const LABEL = 10
const indent = ' '.repeat(LABEL)

/** A block of lines with its label in front of the first. */
export function labelled(style: TextStyle, label: string, text: string, paint?: Parameters<TextStyle['paint']>[0]): string {
  const lines = wrap(printable(text), style.width - LABEL)
  const painted = lines.map((line) => (paint ? style.paint(paint, line) : line))
  return painted.map((line, index) => (index === 0 ? style.paint('dim', label.padEnd(LABEL)) : indent) + line).join('\n')
}

export function answerReport(style: TextStyle, result: DemoAnswer): string {
  const { promptTokens, ms, fullText, sources, expected } = result
  const figures = (positions: number, times: Readonly<Record<string, number>>) =>
    style.paint(
      'dim',
      indent + [`${positions} positions`, ...Object.entries(times).map(([name, time]) => `${name} ${Math.round(time)} ms`)].join(', '),
    )
  const { compress: _, ...own } = ms
  return [
    labelled(style, 'question', result.question, 'bold'),
    labelled(style, 'memory', result.answer || '(nothing)', 'green'),
    figures(promptTokens.memory, { retrieve: own.retrieve, 'first token': own.firstToken, total: own.total }),
    labelled(style, 'full text', fullText.answer || '(nothing)'),
    figures(promptTokens.text, { 'first token': fullText.ms.firstToken, total: fullText.ms.total }),
    ...(expected ? [labelled(style, 'expected', expected.join(' / '))] : []),
    ...sources.map((source, rank) => sourceLine(style, source, rank === 0 ? 'from' : '')),
  ].join('\n')
}

function sourceLine(style: TextStyle, { id, score, text }: Source, label: string): string {
  const head = `${id} ${score.toFixed(3)} `
  const room = style.width - LABEL - head.length
  const flat = printable(text).replace(/\s+/g, ' ')
  const shown = flat.length <= room ? flat : `${Array.from(flat).slice(0, Math.max(0, room - 1)).join('')}…`
  return `${style.paint('dim', label.padEnd(LABEL))}${style.paint('cyan', head)}${style.paint('dim', shown)}`
}

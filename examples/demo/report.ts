import { printable, type TextStyle, wrap } from '../../src/cli/terminal.ts'
import type { Answer, Source } from '../../src/index.ts'

/** One question, answered from memory and by the same model reading the same passages as text. */
export interface DemoAnswer {
  readonly question: string
  readonly answer: string
  /** What the data set gives as right, for the questions that come with the demo. */
  readonly expected?: readonly string[]
  readonly sources: readonly Source[]
  readonly promptTokens: { readonly text: number; readonly memory: number }
  readonly ms: {
    readonly compress: number
    readonly retrieve: number
    readonly firstToken: number
    readonly total: number
  }
  readonly fullText: { readonly answer: string; readonly ms: { readonly firstToken: number; readonly total: number } }
}

const LABEL = 10
const indent = ' '.repeat(LABEL)

/** A block of lines with its label in front of the first. */
export function labelled(
  style: TextStyle,
  label: string,
  text: string,
  paint?: Parameters<TextStyle['paint']>[0],
): string {
  const lines = wrap(printable(text), style.width - LABEL)
  const painted = lines.map((line) => (paint ? style.paint(paint, line) : line))
  return painted
    .map((line, index) => (index === 0 ? style.paint('dim', label.padEnd(LABEL)) : indent) + line)
    .join('\n')
}

/** The answer from memory, what it took, and the passages that it came from. */
export function memoryReport(style: TextStyle, question: string, { answer, sources, usage }: Answer): string {
  const { retrieve, firstToken, total } = usage.ms
  return [
    labelled(style, 'question', question, 'bold'),
    labelled(style, 'memory', answer || '(nothing)', 'green'),
    figures(style, usage.promptTokens.memory, { retrieve, 'first token': firstToken, total }),
    ...sources.map((source, rank) => sourceLine(style, source, rank === 0 ? 'from' : '')),
  ].join('\n')
}

/** The answer of the same model from the passages' text. */
export function fullTextReport(style: TextStyle, { promptTokens, fullText, expected }: DemoAnswer): string {
  const { firstToken, total } = fullText.ms
  return [
    labelled(style, 'full text', fullText.answer || '(nothing)'),
    figures(style, promptTokens.text, { 'first token': firstToken, total }),
    ...(expected ? [labelled(style, 'expected', expected.join(' / '))] : []),
  ].join('\n')
}

function figures(style: TextStyle, positions: number, times: Readonly<Record<string, number>>): string {
  const shown = Object.entries(times).map(([name, time]) => `${name} ${Math.round(time)} ms`)
  return style.paint('dim', indent + [`${positions} positions`, ...shown].join(', '))
}

function sourceLine(style: TextStyle, { id, score, text }: Source, label: string): string {
  const head = `${id} ${score.toFixed(3)} `
  const room = style.width - LABEL - head.length
  const flat = printable(text).replace(/\s+/g, ' ')
  const shown =
    flat.length <= room
      ? flat
      : `${Array.from(flat)
          .slice(0, Math.max(0, room - 1))
          .join('')}…`
  return `${style.paint('dim', label.padEnd(LABEL))}${style.paint('cyan', head)}${style.paint('dim', shown)}`
}

import type { ReaderMode } from './reader.ts'

/** A mode at a rate, and what was found; modes without memory have no rate. */
export interface Found<Figure> {
  readonly mode: ReaderMode
  readonly rate: number | undefined
  readonly figure: Figure
}

/** What is read with memory at one rate, and without it. */
export interface Compared<Figure> {
  readonly questions: number
  /** By rate, such as '4x'. */
  readonly memory: Readonly<Record<string, Figure>>
  /** Another question's documents as memory. */
  readonly wrongMemory: Readonly<Record<string, Figure>>
  readonly noMemory: Figure
  readonly fullText: Figure
  /** Information kept: (memory - none) / (text - none), of F1 or of the loss. Not finite where text and none are equal. */
  readonly kept: Readonly<Record<string, number>>
}

/** Brings the figures of all modes together. @param value What information is told by. */
export function compared<Figure>(
  questions: number,
  found: readonly Found<Figure>[],
  value: (figure: Figure) => number,
): Compared<Figure> {
  const at = (mode: ReaderMode) => found.filter((entry) => entry.mode === mode)
  const byRate = (mode: ReaderMode) =>
    Object.fromEntries(at(mode).map(({ rate, figure }) => [`${rate}x`, figure] as const))
  const [none, text] = [only(at('noMemory')), only(at('fullText'))]
  const memory = byRate('memory')
  const kept = Object.entries(memory).map(([rate, figure]) => [
    rate,
    informationKept({ memory: value(figure), none: value(none), text: value(text) }),
  ])
  return {
    questions,
    memory,
    wrongMemory: byRate('wrongMemory'),
    noMemory: none,
    fullText: text,
    kept: Object.fromEntries(kept),
  }
}

function only<Figure>([first]: readonly Found<Figure>[]): Figure {
  if (!first) throw new RangeError('A control was not measured.')
  return first.figure
}

/** Where a figure with memory lies between that without anything (0) and that with the full text (1). */
const informationKept = (figures: { readonly memory: number; readonly none: number; readonly text: number }) =>
  (figures.memory - figures.none) / (figures.text - figures.none)

/** A mode as people read it. */
export function modeName(mode: ReaderMode, rate?: number | string): string {
  const names = { memory: 'memory', wrongMemory: "another's memory", noMemory: 'nothing', fullText: 'full text' }
  return rate === undefined ? names[mode] : `${names[mode]} at ${typeof rate === 'number' ? `${rate}x` : rate}`
}

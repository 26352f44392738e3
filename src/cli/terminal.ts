/* What the program may assume of the stream that it writes to. */

/** The part of a Node stream that the command line uses; `process.stdout` is one, and so is a fake in a test. */
export interface OutputStream {
  readonly isTTY?: boolean
  readonly columns?: number
  write(text: string): unknown
}

export type Environment = Readonly<Record<string, string | undefined>>

const styles = {
  bold: [1, 22],
  dim: [2, 22],
  red: [31, 39],
  green: [32, 39],
  yellow: [33, 39],
  cyan: [36, 39],
} as const

/** How text looks on one stream. */
export interface TextStyle {
  readonly colours: boolean
  /** Columns to fill; 80 where there is no terminal. */
  readonly width: number
  /** The text in this style, or as it is where colours are off. */
  paint(style: keyof typeof styles, text: string): string
}

/** Colours are on for a terminal, unless NO_COLOR (no-color.org) is set or the terminal is "dumb"; FORCE_COLOR turns them on for pipes. */
export function textStyle(stream: OutputStream, environment: Environment): TextStyle {
  const colours = wantsColours(stream, environment)
  return {
    colours,
    width: stream.isTTY === true && stream.columns !== undefined && stream.columns > 0 ? stream.columns : 80,
    paint(style, text) {
      const [on, off] = styles[style]
      return colours ? `\u001b[${on}m${text}\u001b[${off}m` : text
    },
  }
}

function wantsColours(stream: OutputStream, environment: Environment): boolean {
  const { NO_COLOR: no, FORCE_COLOR: force, TERM: term } = environment
  if (no !== undefined && no !== '') return false
  if (force !== undefined && force !== '' && force !== '0') return true
  return stream.isTTY === true && term !== 'dumb'
}

/** A line that the next one replaces; shows nothing where the stream is not a terminal. */
export interface StatusLine {
  show(line: string): void
  /** Removes the line, so that other text can be written in its place. */
  clear(): void
}

export function statusLine(stream: OutputStream): StatusLine {
  let shown = false
  return {
    show(line) {
      if (stream.isTTY !== true) return
      // A line that wraps could not be erased. A painted line is the caller's to fit: cutting it could split a colour code.
      const width = (stream.columns ?? 80) - 1
      stream.write(`\r\u001b[2K${line.includes('\u001b') ? line : line.slice(0, Math.max(0, width))}`)
      shown = true
    },
    clear() {
      if (shown) stream.write('\r\u001b[2K')
      shown = false
    },
  }
}

/** The text with control characters, save line ends and tabs, made visible: a file's name must not steer the terminal. */
export function printable(text: string): string {
  return text.replace(/[^\P{Cc}\n\t]/gu, (character) => `\\x${character.charCodeAt(0).toString(16).padStart(2, '0')}`)
}

/** Splits text at spaces into lines of at most `width` characters; a longer word keeps a line of its own. */
export function wrap(text: string, width: number): string[] {
  const lines: string[] = []
  let line = ''
  for (const word of text.split(/\s+/)) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line)
      line = ''
    }
    line = line === '' ? word : `${line} ${word}`
  }
  lines.push(line)
  return lines
}

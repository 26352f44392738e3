import { parseDocument } from 'yaml'
import { ClaraError } from '../../errors.ts'
import { decodeText } from '../decode.ts'
import type { Heading, JsonValue } from '../document.ts'
import type { Reader } from './reader.ts'

/** Longest front matter that is looked at, in characters. */
const LONGEST_FRONT_MATTER = 64 * 1024
/** What is longer is no heading, in characters. */
const LONGEST_HEADING = 2000
/** A picture or the like inside the text, which is nothing to read. */
const EMBEDDED_DATA = /\bdata:[\w.+-]+\/[\w.+-]+(?:;[\w=-]+)*;base64,[A-Za-z0-9+/=]{64,}/g

/**
 * Markdown (CommonMark 0.31), its markup left in place: headings with `#` and with an underline are its structure. YAML front matter
 * becomes metadata; its `title`, else the first heading of level 1, is the title. Embedded pictures are dropped.
 */
export const markdownReader: Reader = {
  name: 'markdown',
  extensions: ['md', 'markdown', 'mdown', 'mkd', 'mdx', 'qmd', 'rmd'],
  mediaTypes: ['text/markdown', 'text/x-markdown'],
  async *read(input, { limits }) {
    const whole = decodeText(await input.bytes(limits.bytes), input.name, input.charset)
    const { metadata, body } = frontMatter(whole, input.name)
    const text = body.replace(EMBEDDED_DATA, 'data:')
    const headings = markdownHeadings(text)
    const { title: given, ...rest } = metadata
    const title = typeof given === 'string' && given.trim() !== '' ? given.trim() : mainHeading(headings)
    yield { text, headings, metadata: rest, ...(title === undefined ? {} : { title }) }
  },
}

/** The first heading of level 1. */
function mainHeading(headings: readonly Heading[]): string | undefined {
  const heading = headings.find(({ level }) => level === 1)
  return heading === undefined || heading.title === '' ? undefined : heading.title
}

function frontMatter(
  whole: string,
  name: string,
): { readonly metadata: Readonly<Record<string, JsonValue>>; readonly body: string } {
  if (!/^---[ \t]*\r?\n/.test(whole)) return { metadata: {}, body: whole }
  const block = /^---[ \t]*\r?\n([\s\S]*?)^(?:---|\.\.\.)[ \t]*(?:\r?\n|$)/m.exec(whole.slice(0, LONGEST_FRONT_MATTER))
  if (block === null) return { metadata: {}, body: whole }
  try {
    // no tags beyond JSON's types, few aliases: a small text cannot become a large value
    const document = parseDocument(block[1] ?? '', { schema: 'core', logLevel: 'silent' })
    const [broken] = document.errors
    if (broken) throw broken
    const value: unknown = document.toJS({ maxAliasCount: 0 })
    const isObject = typeof value === 'object' && value !== null && !Array.isArray(value)
    // a line of dashes may also just be a line
    if (!isObject) return { metadata: {}, body: whole }
    return { metadata: JSON.parse(JSON.stringify(value)), body: whole.slice(block[0].length) }
  } catch (cause) {
    throw new ClaraError(`The front matter of ${name} is not right.`, {
      expected: 'YAML between two lines of ---',
      received: cause instanceof Error ? (cause.message.split('\n')[0] ?? '') : String(cause),
      cause,
    })
  }
}

const FENCE = /^ {0,3}(`{3,}|~{3,})([^\n]*)$/
const NUMBER_SIGNS = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?[ \t]*$/
const UNDERLINE = /^ {0,3}(=+|-+)[ \t]*$/
/** Lines that no underline makes a heading of: lists, quotes, code, tables, comments. */
const NOT_PARAGRAPH = /^(?: {4}|\t| {0,3}(?:[-*+>|<]|\d{1,9}[.)]\s))/

/** The headings of a Markdown text, those in blocks of code left out. */
function markdownHeadings(text: string): Heading[] {
  const headings: Heading[] = []
  let fence: string | undefined
  let comment = false
  let paragraph: { readonly line: string; readonly start: number } | undefined
  for (let start = 0; start < text.length; ) {
    const newline = text.indexOf('\n', start)
    const next = newline < 0 ? text.length : newline + 1
    const line = text.slice(start, newline < 0 ? text.length : newline).replace(/\r$/, '')
    const end = start + line.length
    const before = paragraph
    paragraph = undefined
    const mark = FENCE.exec(line)
    if (fence !== undefined) {
      if (mark?.[1]?.startsWith(fence) && mark[2]?.trim() === '') fence = undefined
    } else if (comment) {
      comment = !line.includes('-->')
    } else if (mark && !(mark[1]?.startsWith('`') && mark[2]?.includes('`'))) {
      fence = mark[1]
    } else if (/^ {0,3}<!--/.test(line)) {
      comment = !line.includes('-->')
    } else {
      const [, signs, content = ''] = NUMBER_SIGNS.exec(line.slice(0, LONGEST_HEADING)) ?? []
      const [, underline] = UNDERLINE.exec(line) ?? []
      if (signs !== undefined) {
        headings.push({ level: signs.length, title: plain(content.replace(/(?:^|[ \t]+)#+$/, '')), start, end })
      } else if (underline !== undefined && before) {
        const level = underline.startsWith('=') ? 1 : 2
        headings.push({ level, title: plain(before.line), start: before.start, end })
      } else if (line.trim() !== '' && !NOT_PARAGRAPH.test(line)) {
        // of a paragraph of several lines all are the heading; its first line stands for where it begins
        paragraph = before ? { line: `${before.line} ${line}`.slice(0, 1000), start: before.start } : { line, start }
      }
    }
    start = next
  }
  return headings
}

/** A heading without the marks of links, code and emphasis. */
function plain(markup: string): string {
  return markup
    .slice(0, 1000)
    .replace(/!?\[([^\]]*)\]\([^)]*\)/g, '$1')
    .replace(/[*`]+|(?<![\p{L}\p{N}])_+|_+(?![\p{L}\p{N}])/gu, '')
    .replace(/\s*\{#[^}]*\}$/, '')
    .trim()
}

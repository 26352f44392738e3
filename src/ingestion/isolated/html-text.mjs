import { Tokenizer } from 'htmlparser2'
import { Refusal } from './refusal.mjs'

/** Elements with nothing to read in them. */
const silent = new Set(
  'script style template svg canvas iframe object audio video head select button textarea dialog'.split(' '),
)
const blocks = new Set(
  'address article aside blockquote body center div dl fieldset figcaption figure footer form header hgroup hr html main nav ol p pre section summary details table tbody tfoot thead ul h1 h2 h3 h4 h5 h6'.split(
    ' ',
  ),
)
const lines = new Set('li tr caption dt dd'.split(' '))
const isHeading = (/** @type {string} */ name) => /^h[1-6]$/.test(name)

/** Strengths of the gap between two stretches of text. */
const gaps = ['', ' ', '\n', '\n\n']
const [NONE, SPACE, LINE, PARAGRAPH] = [0, 1, 2, 3]

/** @typedef {{ level: number, title: string, start: number, end: number }} Heading */

/**
 * The text of HTML without its markup: an empty line between blocks, a line for each item of a list and each row of a table. Keeps no stack
 * of elements, so that its time is linear however deep they lie.
 * @param {string} html
 * @param {{ characters: number }} limits
 * @param {ReadonlySet<string>} [leftOut] more elements to leave out, with all that is in them
 * @returns {{ text: string, headings: Heading[] }}
 */
export function textOfHtml(html, limits, leftOut = new Set()) {
  const writer = createWriter(limits.characters)
  const skips = new Set([...silent, ...leftOut])
  let skipping = ''
  let depth = 0
  let name = ''
  /** @param {string} text */
  const text = (text) => {
    if (depth === 0) writer.text(text)
  }
  const open = () => {
    if (depth > 0) depth += name === skipping ? 1 : 0
    else if (skips.has(name)) {
      skipping = name
      depth = 1
    } else writer.open(name)
  }
  const nothing = () => {}
  const tokenizer = new Tokenizer(
    { decodeEntities: true },
    {
      onopentagname: (start, end) => {
        name = html.slice(start, end).toLowerCase()
      },
      onopentagend: open,
      onselfclosingtag: open,
      onclosetag: (start, end) => {
        const closed = html.slice(start, end).toLowerCase()
        if (depth === 0) writer.close(closed)
        else if (closed === skipping) depth -= 1
      },
      ontext: (start, end) => text(html.slice(start, end)),
      ontextentity: (codePoint) => text(String.fromCodePoint(codePoint)),
      onattribname: nothing,
      onattribdata: nothing,
      onattribentity: nothing,
      onattribend: nothing,
      oncdata: nothing,
      oncomment: nothing,
      ondeclaration: nothing,
      onprocessinginstruction: nothing,
      onend: nothing,
    },
  )
  tokenizer.write(html)
  tokenizer.end()
  // an element that is never closed would take all that follows with it
  if (depth > 0 && leftOut.has(skipping)) {
    return textOfHtml(html, limits, new Set([...leftOut].filter((other) => other !== skipping)))
  }
  return writer.finish()
}

/** @param {number} limit most characters */
function createWriter(limit) {
  /** @type {string[]} */
  const parts = []
  let length = 0
  /** What stands between what was written and what comes next; the strongest wins. */
  let gap = NONE
  /** The mark of a list's item, or between two cells. */
  let prefix = ''
  let preformatted = 0
  let cells = 0
  /** Open lists: the number of the next item, 0 where items have none. @type {number[]} */
  const lists = []
  /** @type {Heading[]} */
  const headings = []
  /** @type {{ level: number, start: number, title: string } | undefined} */
  let heading

  /** @param {string} text */
  const write = (text) => {
    // the mark between two cells has spaces of its own
    const before = length === 0 || (gap === SPACE && prefix.startsWith(' ')) ? '' : (gaps[gap] ?? '')
    if (heading !== undefined) {
      if (heading.start < 0) heading.start = length + before.length
      if (heading.title.length < 500) heading.title += (before === '' || heading.title === '' ? '' : ' ') + text
    }
    parts.push(before, prefix, text)
    length += before.length + prefix.length + text.length
    gap = NONE
    prefix = ''
    if (length > limit) throw new Refusal('has too much text', { expected: `at most ${limit} characters` })
  }
  const endHeading = () => {
    if (heading !== undefined && heading.start >= 0) {
      headings.push({ ...heading, title: heading.title.replace(/\s+/g, ' ').trim(), end: length })
    }
    heading = undefined
  }
  /** @param {string} name */
  const separate = (name) => {
    let strength = NONE
    if (name === 'br' || lines.has(name)) strength = cells > 0 && name !== 'tr' ? SPACE : LINE
    // nothing but a space inside a cell of a table
    else if (blocks.has(name)) strength = cells > 0 ? SPACE : lists.length > 0 && name !== 'pre' ? LINE : PARAGRAPH
    gap = Math.max(gap, strength)
  }
  const isCell = (/** @type {string} */ name) => name === 'td' || name === 'th'

  return {
    /** @param {string} text */
    text(text) {
      if (preformatted > 0) {
        if (text !== '') write(text)
        return
      }
      const words = text.replace(/[\s\u200b\ufeff]+/g, ' ')
      const inner = words.trim()
      if (words.startsWith(' ')) gap = Math.max(gap, SPACE)
      if (inner === '') return
      write(inner)
      if (words.endsWith(' ')) gap = Math.max(gap, SPACE)
    },
    /** @param {string} name */
    open(name) {
      if (isHeading(name)) endHeading()
      separate(name)
      if (isHeading(name)) heading = { level: Number(name[1]), start: -1, title: '' }
      if (isCell(name)) cells += 1
      if (name === 'tr') cells = 0
      if (name === 'pre') preformatted += 1
      if (name === 'ul' || name === 'ol') lists.push(name === 'ol' ? 1 : 0)
      if (name === 'li') {
        const number = lists.at(-1) ?? 0
        if (number > 0) lists[lists.length - 1] = number + 1
        prefix = number > 0 ? `${number}. ` : '- '
      }
    },
    /** @param {string} name */
    close(name) {
      if (isHeading(name)) endHeading()
      if (name === 'pre') preformatted = Math.max(0, preformatted - 1)
      if (name === 'ul' || name === 'ol') lists.pop()
      if (name === 'tr' || name === 'table') cells = 0
      if (isCell(name)) {
        cells = Math.max(0, cells - 1)
        if (gap <= SPACE && length > 0) {
          gap = NONE
          prefix = ' | '
        }
        return
      }
      separate(name)
      if (lines.has(name) || (blocks.has(name) && name !== 'p')) prefix = ''
    },
    finish() {
      endHeading()
      return { text: parts.join(''), headings }
    },
  }
}

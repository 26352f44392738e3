import { getDocumentProxy } from 'unpdf'
import { Refusal } from './refusal.mjs'

/** A gap between lines of more than so many times the usual one begins a paragraph. */
const PARAGRAPH_GAP = 1.35
/** So does a change of the letters' height by this factor. */
const HEIGHT_CHANGE = 1.15
const MOST_BOOKMARKS = 2000
const DEEPEST_BOOKMARK = 6

/**
 * The text of a PDF, page by page, with its bookmarks as headings.
 * @param {Uint8Array} bytes
 * @param {{ pages: number, characters: number }} limits
 * @returns {Promise<import('./process.mjs').Result>}
 */
export async function readPdf(bytes, limits) {
  const pdf = await open(bytes)
  if (pdf.numPages > limits.pages) {
    throw new Refusal('has too many pages', { expected: `at most ${limits.pages}`, received: String(pdf.numPages) })
  }
  /** @type {{ number: number, start: number, end: number }[]} */
  const pages = []
  /** @type {string[]} */
  const parts = []
  let length = 0
  let empty = 0
  for (let number = 1; number <= pdf.numPages; number++) {
    const page = await pdf.getPage(number)
    const { items } = await page.getTextContent()
    const text = pageText(items.flatMap((item) => ('str' in item ? [item] : [])))
    page.cleanup()
    if (text === '') empty += 1
    if (text !== '' && length > 0) {
      parts.push('\n\n')
      length += 2
    }
    pages.push({ number, start: length, end: length + text.length })
    parts.push(text)
    length += text.length
    if (length > limits.characters)
      throw new Refusal('has too much text', { expected: `at most ${limits.characters} characters` })
  }
  const text = parts.join('')
  if (text.trim() === '') {
    throw new Refusal(`has no text on ${pdf.numPages === 1 ? 'its page' : `any of its ${pdf.numPages} pages`}`, {
      hint: 'It is probably scanned: run text recognition (OCR) over it first, for example with ocrmypdf.',
    })
  }
  const { title, author } = await information(pdf)
  return {
    text,
    pages,
    headings: await bookmarks(pdf, text, pages),
    ...(title === undefined ? {} : { title }),
    metadata: {
      pages: pdf.numPages,
      ...(empty === 0 ? {} : { pagesWithoutText: empty }),
      ...(author === undefined ? {} : { author }),
    },
  }
}

/** @param {Uint8Array} bytes */
async function open(bytes) {
  try {
    // the parser refuses Buffers, and takes the bytes for itself
    return await getDocumentProxy(new Uint8Array(bytes), {
      isEvalSupported: false,
      disableFontFace: true,
      useSystemFonts: false,
      verbosity: 0,
    })
  } catch (error) {
    const { name = '', message = '' } = error instanceof Error ? error : {}
    if (name === 'PasswordException') {
      throw new Refusal('is encrypted and needs a password', { hint: 'Save a copy without one.' })
    }
    throw new Refusal('is not a PDF, or is damaged', { received: message.replace(/\.$/, '').slice(0, 200) })
  }
}

/**
 * Lines as the parser finds them; an empty line where a gap or another size of letters shows a new paragraph.
 * @param {{ str: string, transform: number[], height: number, hasEOL: boolean }[]} items
 */
function pageText(items) {
  /** @type {{ text: string, y: number, height: number }[]} */
  const lines = []
  let text = ''
  let y = 0
  let height = 0
  const end = () => {
    // NUL and other control characters come from fonts without a table of characters
    const clean = text.replace(/[^\P{Cc}\t\n]/gu, '').trimEnd()
    if (clean.trim() !== '') lines.push({ text: clean, y, height })
    text = ''
    height = 0
  }
  for (const item of items) {
    if (text === '') y = item.transform[5] ?? 0
    text += item.str
    height = Math.max(height, item.height)
    if (item.hasEOL) end()
  }
  end()
  const gaps = lines.slice(1).map((line, index) => (lines[index]?.y ?? 0) - line.y)
  const usual = median(gaps.filter((gap) => gap > 0))
  let result = ''
  lines.forEach((line, index) => {
    const before = lines[index - 1]
    if (before === undefined) {
      result = line.text
      return
    }
    const gap = before.y - line.y
    const ratio = line.height > 0 && before.height > 0 ? line.height / before.height : 1
    const breaks = gap > usual * PARAGRAPH_GAP || ratio > HEIGHT_CHANGE || ratio < 1 / HEIGHT_CHANGE
    // a word that is divided at the end of a line is put together again
    if (!breaks && /\p{Ll}[-\u00ad\u2010]$/u.test(result.slice(-3)) && /^\p{Ll}/u.test(line.text))
      result = result.slice(0, -1) + line.text
    else result += (breaks ? '\n\n' : '\n') + line.text
  })
  return result.replace(/\u00ad/g, '').trim()
}

/** @param {number[]} values */
function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[sorted.length >> 1] ?? 0
}

/**
 * @param {Awaited<ReturnType<typeof open>>} pdf
 * @returns {Promise<{ title?: string, author?: string }>}
 */
async function information(pdf) {
  try {
    const { info } = await pdf.getMetadata()
    const { Title, Author } = /** @type {Record<string, unknown>} */ (info)
    /** @param {unknown} value */
    const clean = (value) =>
      typeof value === 'string' && value.trim() !== '' ? value.trim().slice(0, 1000) : undefined
    const [title, author] = [clean(Title), clean(Author)]
    return {
      // what word processors put there when nobody gave a title
      ...(title === undefined || /^(?:untitled|microsoft word - )/i.test(title) ? {} : { title }),
      ...(author === undefined ? {} : { author }),
    }
  } catch {
    return {}
  }
}

/**
 * Bookmarks as headings, at their title's place on the page that they lead to, else at the page's start.
 * @param {Awaited<ReturnType<typeof open>>} pdf
 * @param {string} text
 * @param {{ number: number, start: number, end: number }[]} pages
 */
async function bookmarks(pdf, text, pages) {
  /** @type {import('./process.mjs').Result['headings']} */
  const headings = []
  try {
    /** @type {{ items: any[], level: number }[]} */
    const pending = [{ items: (await pdf.getOutline()) ?? [], level: 1 }]
    for (let next = pending.pop(); next !== undefined && headings.length < MOST_BOOKMARKS; next = pending.pop()) {
      const [item, ...others] = next.items
      if (item === undefined) continue
      pending.push({ items: others, level: next.level })
      if (next.level < DEEPEST_BOOKMARK) pending.push({ items: item.items ?? [], level: next.level + 1 })
      const destination = typeof item.dest === 'string' ? await pdf.getDestination(item.dest) : item.dest
      const target = destination?.[0]
      if (target === undefined || target === null) continue
      const page = pages[typeof target === 'number' ? target : await pdf.getPageIndex(target)]
      const title = String(item.title ?? '')
        .trim()
        .slice(0, 500)
      if (page === undefined || title === '') continue
      const words = title.split(/\s+/).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'))
      const found = new RegExp(words.join('\\s+'), 'u').exec(text.slice(page.start, page.end))
      const start = page.start + (found?.index ?? 0)
      headings.push({ level: next.level, title, start, end: start + (found?.[0].length ?? 0) })
    }
  } catch {
    // bookmarks that lead nowhere take nothing from the text
  }
  return headings.sort((a, b) => a.start - b.start || a.level - b.level)
}

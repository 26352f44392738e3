import { Readability } from '@mozilla/readability'
import { Parser } from 'htmlparser2'
import { parseHTML } from 'linkedom'
import { textOfHtml } from './html-text.mjs'
import { Refusal } from './refusal.mjs'

/** The search for the readable part takes time that explodes with depth: pages beyond this, or with more elements, are read whole. */
const DEEPEST = 100
const MOST_ELEMENTS = 100_000
/** A readable part of fewer characters is none. */
const LEAST_READABLE = 140
/** What stands around the text of a page. */
const furniture = new Set(['nav', 'header', 'footer', 'aside', 'form', 'menu', 'noscript'])

/**
 * The readable part of a page (Mozilla's Readability); where there is none, all text but navigation, headers and footers.
 * @param {string} html
 * @param {{ characters: number }} limits
 * @returns {import('./process.mjs').Result}
 */
export function readHtml(html, limits) {
  const page = survey(html)
  const article = page.isTame ? readablePart(html) : null
  const readable = article?.content ? textOfHtml(article.content, limits) : undefined
  const chosen = readable && readable.text.length >= LEAST_READABLE ? readable : textOfHtml(html, limits, furniture)
  const { text, headings } = chosen.text.trim() === '' ? textOfHtml(html, limits) : chosen
  if (text.trim() === '') throw new Refusal('has no text', { hint: 'Pages that a script fills cannot be read.' })
  const title = clean(article?.title) ?? clean(page.title)
  const facts = {
    author: article?.byline,
    site: article?.siteName,
    language: article?.lang,
    published: article?.publishedTime,
  }
  return {
    text,
    headings,
    ...(title === undefined ? {} : { title }),
    metadata: Object.fromEntries(
      Object.entries(facts).flatMap(([name, value]) => {
        const text = clean(value)
        return text === undefined ? [] : [[name, text]]
      }),
    ),
  }
}

/** @param {string} html */
function readablePart(html) {
  // a fragment needs a root; nothing is executed or fetched
  const { document } = parseHTML(/<html[\s>]/i.test(html) ? html : `<html><body>${html}</body></html>`)
  try {
    return new Readability(document, { charThreshold: LEAST_READABLE }).parse()
  } catch {
    // pages too broken for it are read whole
    return null
  }
}

/** @param {string | null | undefined} value */
function clean(value) {
  const text = value?.replace(/\s+/g, ' ').trim().slice(0, 1000)
  return text ? text : undefined
}

const enough = new Error('enough')

/**
 * The title, and whether the page is small and flat enough to be searched. Ends as soon as it is not, since the parser's own time grows with
 * the square of the depth.
 * @param {string} html
 */
function survey(html) {
  let title = ''
  let inTitle = false
  let elements = 0
  let depth = 0
  let isTame = true
  const parser = new Parser(
    {
      onopentag(name) {
        elements += 1
        depth += 1
        inTitle = name === 'title' && title === ''
        if (elements <= MOST_ELEMENTS && depth <= DEEPEST) return
        isTame = false
        throw enough
      },
      ontext(text) {
        if (inTitle && title.length < 1000) title += text
      },
      onclosetag() {
        depth -= 1
        inTitle = false
      },
    },
    { decodeEntities: true },
  )
  try {
    parser.end(html)
  } catch (error) {
    if (error !== enough) throw error
  }
  return { title, isTame }
}

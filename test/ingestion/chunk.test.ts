import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type ChunkOptions, chunkDocument } from '../../src/ingestion/chunk.ts'
import type { Heading, Page } from '../../src/ingestion/document.ts'
import { documentsOf, scratchFolder } from './support.ts'

const { write } = scratchFolder()

/** Words and marks. */
const count = (text: string) => (text.match(/[\p{L}\p{N}]+|[^\p{L}\p{N}\s]/gu) ?? []).length

const whole = { headings: [], pages: [], lines: false }

async function chunksOf(name: string, content: string, options: Partial<ChunkOptions> & { maxTokens: number }) {
  const [document] = await documentsOf([write(name, content)])
  if (document === undefined) throw new Error('no document')
  return [...chunkDocument(document, { count, ...options })]
}

describe('structure', () => {
  const text = [
    '# Guide',
    'One two three.',
    '## Install',
    'Four five six seven.',
    '### Linux',
    'Eight nine ten eleven twelve.',
    '## Use',
    'Thirteen fourteen.',
  ].join('\n\n')

  test('a chunk ends before a heading, the outermost that fills it well enough, and carries its path', async () => {
    const chunks = await chunksOf('a.md', text, { maxTokens: 18 })
    expect(chunks.map((chunk) => [chunk.context, chunk.text.replace(/\s+/g, ' '), chunk.headings])).toEqual([
      ['', '# Guide One two three. ## Install Four five six seven.', ['Guide']],
      ['Guide > Install: ', '### Linux Eight nine ten eleven twelve.', ['Guide', 'Install', 'Linux']],
      ['Guide: ', '## Use Thirteen fourteen.', ['Guide', 'Use']],
    ])
  })

  test('headings inside a section are said in the context of what follows under them', async () => {
    const long = `# Guide\n\n## Install\n\n${'Word word word. '.repeat(12)}`
    const chunks = await chunksOf('b.md', long, { maxTokens: 20 })
    expect(chunks.map(({ context }) => context)).toEqual([
      '',
      'Guide > Install: ',
      'Guide > Install: ',
      'Guide > Install: ',
    ])
    for (const chunk of chunks) expect(count(chunk.context + chunk.text)).toBeLessThanOrEqual(20)
    const titled = await chunksOf('b.md', long, { maxTokens: 20, context: 'title' })
    expect(titled.at(-1)?.context).toBe('Guide: ')
    expect((await chunksOf('b.md', long, { maxTokens: 20, context: 'none' })).at(-1)?.context).toBe('')
  })

  test('a context that would crowd out the text is shortened, then left out', async () => {
    const section = (title: string) => `# Guide\n\n## ${title}\n\n${'Word. '.repeat(30)}`
    const context = async (title: string) => (await chunksOf('c.md', section(title), { maxTokens: 20 })).at(-1)?.context
    expect(await context('A b')).toBe('Guide > A b: ')
    expect(await context('A b c')).toBe('A b c: ')
    expect(await context('A b c d e f g')).toBe('Guide: ')
    expect(await context('x '.repeat(5_000))).toBe('Guide: ')
  })

  test('a heading never ends a chunk', async () => {
    const parts = Array.from(
      { length: 12 },
      (_, index) => `${'#'.repeat(1 + (index % 3))} Head ${index}\n\nAa bb cc dd.\n\n`,
    )
    for (let maxTokens = 10; maxTokens < 40; maxTokens++) {
      const chunks = await chunksOf('d.md', parts.join(''), { maxTokens, context: 'none' })
      for (const chunk of chunks) expect(chunk.text).toMatch(/\.$/)
    }
  })

  test('nor does one with nothing under it, or with a sentence that goes into the next', async () => {
    const texts = async (text: string) =>
      (await chunksOf('e.md', text, { maxTokens: 20, context: 'none' })).map((chunk) => chunk.text)
    const sentence = `${'word '.repeat(16).trim()}.`
    expect(await texts(`Short one.\n\n## A\n\n${sentence}`)).toEqual(['Short one.', `## A\n\n${sentence}`])
    const body = `${'word '.repeat(10).trim()}.`
    expect(await texts(`${body}\n\n## A\n\n## B\n\n${body}`)).toEqual([body, `## A\n\n## B\n\n${body}`])
  })

  test('source code is cut between definitions, else between lines', async () => {
    const code = 'import a\n\n// about f\nfunction f() {\n  g(1, 2);\n}\n\nclass C {\n  h(3);\n}\n'
    const chunks = await chunksOf('a.js', code, { maxTokens: 20, context: 'none' })
    expect(chunks.map((chunk) => chunk.text)).toEqual([
      'import a\n\n// about f\nfunction f() {\n  g(1, 2);\n}',
      'class C {\n  h(3);\n}',
    ])
    const lines = await chunksOf('b.js', 'a = b. c = d.\ne = f. g = h.\n', { maxTokens: 9, context: 'none' })
    expect(lines.map((chunk) => chunk.text)).toEqual(['a = b. c = d.', 'e = f. g = h.'])
  })

  test('a chunk says on which pages it is', () => {
    const pages = [
      { number: 1, start: 0, end: 10 },
      { number: 2, start: 10, end: 12 },
      { number: 3, start: 12, end: 30 },
    ]
    const text = 'Aaa bbb cc\n\nDd ee ff. Gg hh.'
    const chunks = [...chunkDocument({ ...whole, text, pages }, { maxTokens: 4, count })]
    expect(chunks.map((chunk) => [chunk.text, chunk.page, chunk.lastPage])).toEqual([
      ['Aaa bbb cc', 1, 1],
      ['Dd ee ff.', 3, 3],
      ['Gg hh.', 3, 3],
    ])
  })
})

describe('overlap', () => {
  const chunks = (text: string, maxTokens: number, overlap: number) =>
    [...chunkDocument({ ...whole, text }, { maxTokens, overlap, count })].map((chunk) => chunk.text)

  test('repeats whole sentences where they fit, else words', () => {
    expect(chunks('A b. C d. E f. G h. I j.', 9, 3)).toEqual(['A b. C d. E f.', 'E f. G h. I j.'])
    expect(chunks('a b c d e f g h i j', 4, 2)).toEqual(['a b c d', 'c d e f', 'e f g h', 'g h i j'])
  })

  test('is dropped where it would leave no room for a sentence', () => {
    expect(chunks('A b. C d e f g h. I j.', 7, 3)).toEqual(['A b.', 'C d e f g h.', 'g h. I j.'])
  })

  test('stops at a heading', () => {
    const text = 'A b. C d. E f.\n\nHead\n\nG h. I j.'
    const headings = [{ level: 1, title: 'Head', start: text.indexOf('Head'), end: text.indexOf('Head') + 4 }]
    const split = [...chunkDocument({ ...whole, text, headings }, { maxTokens: 9, overlap: 3, count, context: 'none' })]
    expect(split.map((chunk) => chunk.text)).toEqual(['A b. C d. E f.', 'Head\n\nG h. I j.'])
  })

  test('may not be more than half a chunk', () => {
    expect(() => chunks('a', 8, 5)).toThrow(/overlap by so many.*from 0 to 4.*Got 5/)
    expect(() => chunks('a', 8, -1)).toThrow(/overlap/)
  })
})

/** A text of short words with headings and pages at random places of it. */
const documents = fc
  .array(
    fc.record({
      words: fc.array(fc.constantFrom('ab', 'cde', 'f.', 'gh,', 'Ij', '我们。', 'klm?', 'ñö'), { maxLength: 30 }),
      gap: fc.constantFrom(' ', '\n', '\n\n', '\r\n\r\n'),
      heading: fc.option(fc.integer({ min: 1, max: 4 }), { nil: undefined }),
      page: fc.boolean(),
    }),
    { maxLength: 12 },
  )
  .map((parts) => {
    let text = ''
    const headings: Heading[] = []
    const starts: number[] = [0]
    parts.forEach(({ words, gap, heading, page }, index) => {
      if (page) starts.push(text.length)
      if (heading !== undefined) {
        const title = `Head ${index}`
        headings.push({ level: heading, title, start: text.length, end: text.length + title.length })
        text += `${title}\n\n`
      }
      text += words.join(' ') + gap
    })
    const pages = starts.map(
      (start, index): Page => ({ number: index + 1, start, end: starts[index + 1] ?? text.length }),
    )
    return { text, headings, pages }
  })

test('chunks hold every word once or, by overlap, twice; fit; cut no word; and know their place', () => {
  fc.assert(
    fc.property(
      documents,
      fc.integer({ min: 12, max: 60 }),
      fc.integer({ min: 0, max: 6 }),
      fc.boolean(),
      fc.constantFrom('headings', 'title', 'none'),
      ({ text, headings, pages }, maxTokens, overlap, lines, context) => {
        const document = { title: 'The title', text, headings, pages, lines }
        const chunks = [...chunkDocument(document, { maxTokens, overlap, count, context })]
        let [reached, previousEnd] = [0, 0]
        for (const chunk of chunks) {
          expect(chunk.text).toBe(text.slice(chunk.start, chunk.end))
          expect(chunk.text.trim()).toBe(chunk.text)
          expect(count(chunk.context + chunk.text)).toBeLessThanOrEqual(maxTokens)
          // nothing is left out, and each chunk brings something new
          expect(text.slice(reached, Math.max(reached, chunk.start)).trim()).toBe('')
          expect(chunk.end).toBeGreaterThan(previousEnd)
          if (chunk.start < previousEnd) {
            expect(count(text.slice(chunk.start, previousEnd))).toBeLessThanOrEqual(overlap)
          }
          for (const edge of [chunk.start, chunk.end]) {
            expect(text.slice(Math.max(0, edge - 1), edge + 1)).not.toMatch(/^[a-zñöI]{2}$/u)
          }
          // by brute force: the last heading of each level that no outer one has ended since
          const above = headings.filter(({ start }) => start <= chunk.start)
          const path = above.filter(
            ({ level, start }) => !above.some((other) => other.start > start && other.level <= level),
          )
          expect(chunk.headings).toEqual(path.map(({ title }) => title))
          expect(chunk.page).toBe(pages.filter(({ start }) => start <= chunk.start).at(-1)?.number)
          expect(chunk.lastPage).toBe(pages.filter(({ start }) => start < chunk.end).at(-1)?.number)
          previousEnd = chunk.end
          reached = Math.max(reached, chunk.end)
        }
        expect(text.slice(reached).trim()).toBe('')
      },
    ),
    { numRuns: 150 },
  )
})

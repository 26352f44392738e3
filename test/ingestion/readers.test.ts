import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { documentsOf, docxOf, failuresOf, ingestAll, paragraph, pdfOf, scratchFolder } from './support.ts'

const { write } = scratchFolder()

async function read(name: string, content: string | Uint8Array, options = {}) {
  const documents = await documentsOf([write(name, content)], options)
  const [document] = documents
  if (document === undefined || documents.length > 1) throw new Error(`${documents.length} documents`)
  const { text, title, headings, metadata } = document
  // every heading must be where it says it is
  const outline = headings.map(({ level, start, end }) => `${level} ${text.slice(start, end)}`)
  return { text, title, metadata, outline, titles: headings.map((heading) => heading.title), document }
}

describe('Markdown', () => {
  test('headings are its structure, those in code, comments and lists are not', async () => {
    const text = [
      '# A *first* `one` #',
      'text',
      '```sh',
      '# no heading',
      '```',
      'Under line',
      '==========',
      '- item',
      '---',
      'Two _lines_',
      'of one',
      '---',
      '<!--',
      '# none',
      '-->',
      '### [Link](http://x) {#id}',
      '#hashtag',
      '    # code',
      '| a |',
      '---',
      '####### seven',
    ].join('\n')
    const { outline, titles, title } = await read('a.md', text)
    expect(titles).toEqual(['A first one', 'Under line', 'Two lines of one', 'Link'])
    expect(outline).toEqual([
      '1 # A *first* `one` #',
      '1 Under line\n==========',
      '2 Two _lines_\nof one\n---',
      '3 ### [Link](http://x) {#id}',
    ])
    expect(title).toBe('A first one')
  })

  test('front matter becomes metadata, its title the title', async () => {
    const read1 = await read(
      'b.md',
      '---\r\ntitle: "From: above"\r\ntags: [x, y]\r\ndraft: false\r\n---\r\n# Head\r\nText',
    )
    expect(read1.title).toBe('From: above')
    expect(read1.metadata).toEqual({ tags: ['x', 'y'], draft: false })
    expect(read1.text).toBe('# Head\r\nText')
  })

  test('a line of dashes is no front matter; broken front matter is said', async () => {
    expect((await read('c.md', '---\nJust text\n---\nMore')).text).toBe('---\nJust text\n---\nMore')
    expect((await read('d.md', '---\nno: end')).text).toBe('---\nno: end')
    expect(await failuresOf([write('e.md', '---\na: [1\n---\n')])).toEqual([
      expect.stringMatching(/front matter of .*e\.md/),
    ])
    // a few lines that would unfold to billions
    const laughs = [
      'a: &a [x,x,x,x,x,x,x,x,x]',
      ...'bcdefghij'.split('').map((name, index) => {
        const before = '*'.concat('abcdefghi'[index] ?? 'a')
        return `${name}: &${name} [${Array(9).fill(before).join(',')}]`
      }),
    ]
    expect(await failuresOf([write('f.md', `---\n${laughs.join('\n')}\n---\n`)])).toHaveLength(1)
  })

  test('pictures inside the text are dropped', async () => {
    const { text } = await read('g.md', `Before ![x](data:image/png;base64,${'iVBOR'.repeat(1000)}) after`)
    expect(text).toBe('Before ![x](data:) after')
  })
})

describe('source code', () => {
  test('definitions at the margin or one step in are its structure, with the comments above them', async () => {
    const text =
      '"""Doc."""\nimport x\n\n# What it does\n@cached\ndef first(a):\n    return a\n\nclass Second(Base):\n    async def inner(self):\n        def local(): pass\n'
    const { titles, outline, document } = await read('a.py', text)
    expect(titles).toEqual(['def first', 'class Second', 'def inner'])
    expect(outline).toEqual([
      '1 # What it does\n@cached\ndef first(a):',
      '1 class Second(Base):',
      '2     async def inner(self):',
    ])
    expect(document).toMatchObject({ lines: true, title: 'a.py', metadata: { language: 'python' } })
  })

  test.each([
    [
      'a.ts',
      'export default async function* walk() {}\nexport abstract class A<T> {}\nconst x = 1',
      ['function* walk', 'class A'],
    ],
    ['a.go', 'func (s *Server) Serve(x int) error {\n}\ntype Server struct {\n}', ['func Serve', 'type Server']],
    ['a.rs', 'pub(crate) fn run() {}\nimpl<T> Trait for A {}\npub struct B;', ['fn run', 'impl Trait', 'struct B']],
    ['a.sql', 'CREATE OR REPLACE VIEW sales.day AS\nSELECT 1', ['CREATE OR REPLACE VIEW sales.day']],
  ])('%s', async (name, text, titles) => {
    expect((await read(name, text)).titles).toEqual(titles)
  })
})

describe('HTML', () => {
  const filler = 'Words of a readable article, with commas, and sentences that go on for a while. '.repeat(6)

  test('the readable part, with headings, lists and tables, nothing executed', async () => {
    const page = `<!doctype html><html lang="nb"><head><title>The title</title><script>throw new Error('executed')</script>
      <meta name="author" content="Ada"></head><body><nav><a href="/">Home</a> <a href="/x">Elsewhere</a></nav>
      <article><h1>The title</h1><p>${filler}</p><h2>First &amp; second</h2><p>${filler}</p><ol><li>one</li><li><p>two</p></li></ol>
      <table><tr><th>Name</th><th>Born</th></tr><tr><td>Ada</td><td><p>1815</p></td></tr></table><pre>a\n  b</pre></article>
      <footer>Copyright nobody</footer></body></html>`
    const { title, text, titles, outline, metadata } = await read('a.html', page)
    expect(title).toBe('The title')
    expect(titles).toEqual(['First & second'])
    expect(outline).toEqual(['2 First & second'])
    expect(metadata).toMatchObject({ language: 'nb', author: 'Ada' })
    expect(text).toContain('\n\nFirst & second\n\nWords')
    expect(text).toContain('1. one\n2. two')
    expect(text).toContain('Name | Born\nAda | 1815')
    expect(text).toContain('a\n  b')
    expect(text).not.toMatch(/Home|Copyright|executed/)
  })

  test('a page without a readable part is read whole, but for what stands around', async () => {
    const { text } = await read('b.html', '<nav>Menu</nav><h2>Short</h2><p>Not much<br>here.<footer>Foot</footer>')
    expect(text).toBe('Short\n\nNot much\nhere.')
    // an element that is never closed takes nothing with it
    expect((await read('c.html', '<nav>Menu<p>All of the text.')).text).toBe('Menu\n\nAll of the text.')
  })

  test('the encoding that the page names is used, an unknown one refused', async () => {
    const page = (charset: string) => Buffer.from(`<meta charset="${charset}"><p>Bl\xe5b\xe6r</p>`, 'latin1')
    expect((await read('d.html', page('iso-8859-1'))).text).toBe('Blåbær')
    expect(await failuresOf([write('e.html', page('utf-8'))])).toEqual([expect.stringMatching(/not UTF-8 text/)])
    expect(await failuresOf([write('f.html', page('nonsense'))])).toEqual([expect.stringMatching(/unknown encoding/)])
  })

  test('a page that a script would fill has no text', async () => {
    const empty = write('g.html', '<html><body><div id="root"></div><script>render()</script></body></html>')
    expect(await failuresOf([empty])).toEqual([expect.stringMatching(/g\.html" has no text/)])
  })
})

describe('PDF', () => {
  test('text in paragraphs, with pages, bookmarks and title; divided words are joined', async () => {
    const pdf = pdfOf(
      [
        ['First line of the first page,', 'and a word that is di-', 'vided.', '', '', 'New paragraph.'],
        [],
        ['Chapter two', 'Its text (with brackets).'],
      ],
      {
        title: 'A book',
        bookmarks: [
          ['Start', 0],
          ['Chapter  two', 2],
        ],
      },
    )
    const { text, title, document, titles, outline, metadata } = await read('a.pdf', pdf)
    expect(text).toBe(
      'First line of the first page,\nand a word that is divided.\n\nNew paragraph.\n\nChapter two\nIts text (with brackets).',
    )
    expect(title).toBe('A book')
    expect(document.pages.map(({ number, start, end }) => [number, text.slice(start, end).slice(0, 11)])).toEqual([
      [1, 'First line '],
      [2, ''],
      [3, 'Chapter two'],
    ])
    expect(titles).toEqual(['Start', 'Chapter  two'])
    expect(outline).toEqual(['1 ', '1 Chapter two'])
    expect(metadata).toEqual({ pages: 3, pagesWithoutText: 1 })
  })

  test('says what is wrong', async () => {
    const cases: [string, Uint8Array, RegExp][] = [
      ['locked.pdf', pdfOf([['secret']], { encrypted: true }), /locked\.pdf" is encrypted and needs a password/],
      ['scan.pdf', pdfOf([[], [], []]), /scan\.pdf" has no text on any of its 3 pages.*OCR/],
      ['cut.pdf', pdfOf([['x']]).subarray(0, 60), /cut\.pdf" is not a PDF, or is damaged/],
      ['word.pdf', docxOf(paragraph('x')), /word\.pdf" is not a PDF/],
    ]
    for (const [name, bytes, message] of cases) {
      expect(await failuresOf([write(name, bytes)])).toEqual([expect.stringMatching(message)])
    }
    const pages = write('pages.pdf', pdfOf(Array.from({ length: 5 }, () => ['x'])))
    expect(await failuresOf([pages], { limits: { pages: 4 } })).toEqual([
      expect.stringMatching(/too many pages.*at most 4.*Got 5/),
    ])
  })

  test('one without the extension is known by its beginning', async () => {
    expect((await read('unnamed', pdfOf([['Known by heart']]))).text).toBe('Known by heart')
  })
})

describe('Word', () => {
  test('text, headings, tables; title and author', async () => {
    const cell = (text: string) => `<w:tc>${paragraph(text)}</w:tc>`
    const body = [
      paragraph('Plans', 'Heading1'),
      paragraph('Something to do.'),
      paragraph('Details', 'Heading2'),
      `<w:tbl><w:tr>${cell('What')}${cell('When')}</w:tr><w:tr>${cell('Tea')}${cell('Five')}</w:tr></w:tbl>`,
    ].join('')
    const { text, title, outline, metadata } = await read('a.docx', docxOf(body))
    expect(text).toBe('Plans\n\nSomething to do.\n\nDetails\n\nWhat | When\nTea | Five')
    expect(outline).toEqual(['1 Plans', '2 Details'])
    expect(title).toBe('Minutes & notes')
    expect(metadata).toEqual({ author: 'Ada' })
  })

  test('says what is wrong', async () => {
    const old = Uint8Array.of(0xd0, 0xcf, 0x11, 0xe0, 0xa1, 0xb1, 0x1a, 0xe1, ...new Array(600).fill(0))
    const cases: [string, Uint8Array, RegExp][] = [
      ['old.docx', old, /encrypted document or one of Word before 2007/],
      ['text.docx', Buffer.from('Just text'), /is no Word document/],
      ['cut.docx', docxOf(paragraph('x')).subarray(0, 500), /is no Word document \(\.docx\), or is cut short/],
      ['empty.docx', docxOf(''), /empty\.docx" has no text/],
      ['xml.docx', docxOf('<w:p><w:r></w:p>'), /is not a Word document, or is damaged|has no text/],
    ]
    for (const [name, bytes, message] of cases) {
      expect(await failuresOf([write(name, bytes)])).toEqual([expect.stringMatching(message)])
    }
  })
})

describe('tables and JSON lines', () => {
  test('CSV: fields by their usual names, the others as metadata', async () => {
    const path = write('a.csv', 'ID;Title;Body;year\n7;Tea;"Pour; then\nwait ""long"".";1815\n8;;Drink.;\n')
    const documents = await documentsOf([path])
    expect(documents.map(({ id, title, text, metadata }) => ({ id, title, text, metadata }))).toEqual([
      { id: `${path}#7`, title: 'Tea', text: 'Pour; then\nwait "long".', metadata: { year: '1815' } },
      { id: `${path}#8`, title: undefined, text: 'Drink.', metadata: { year: '' } },
    ])
  })

  test('fields that are named; the id that is named is the document id', async () => {
    const path = write('b.jsonl', '{"key": 5, "q": "Why?", "a": "So.", "by": {"name": "Ada"}, "n": 1}\n')
    const fields = { id: 'key', text: ['q', 'a'], metadata: ['by'] }
    const [document] = await documentsOf([path], { fields })
    expect(document).toMatchObject({ id: '5', source: path, text: 'Why?\n\nSo.', metadata: { by: { name: 'Ada' } } })
    expect(await failuresOf([path], { fields: { text: 'body' } })).toEqual([
      expect.stringMatching(/b\.jsonl" has no field "body"\. Got "key", "q"/),
    ])
    expect(await failuresOf([path])).toEqual([
      expect.stringMatching(/no field that is known to hold the text.*Got "key"/),
    ])
  })

  test('bad records are reported, and the rest goes on', async () => {
    const path = write(
      'c.jsonl',
      '{"text": "one"}\n\n[1]\n{"text": \n{"text": 5}\n{"text": " "}\n{"text": "two", "id": {}}\r\n{"text":"three"}',
    )
    const events = await ingestAll([path])
    expect(
      events.map((event) =>
        'reason' in event ? event.reason : event.kind === 'document' ? event.document.id : event.kind,
      ),
    ).toEqual([
      `${path}#1`,
      'line 3: it is not a JSON object.',
      'line 4: it is not a JSON object.',
      'line 5: the text is not a string but number.',
      'line 6: it has no text.',
      'line 7: the id is neither a string nor a number.',
      `${path}#8`,
      'read',
    ])
    expect(events.at(-1)).toMatchObject({ documents: 2, problems: 5 })
    const table = await ingestAll([write('c.csv', 'text,kind\na,b,c\nd\n')])
    expect(table.map((event) => ('reason' in event ? event.reason : event.kind))).toEqual([
      'line 2: the row has 3 cells, but there are 2 columns.',
      'document',
      'read',
    ])
  })

  test('names that mean something to JavaScript are names', async () => {
    const [document] = await documentsOf([write('d.jsonl', '{"text": "x", "__proto__": {"a": 1}, "constructor": 2}')])
    expect(Object.keys(document?.metadata ?? {}).sort()).toEqual(['__proto__', 'constructor'])
    expect(await failuresOf([write('e.jsonl', '{"a": "x"}')], { fields: { text: 'toString' } })).toHaveLength(1)
  })

  test('any table comes back from CSV, whatever its separator, quotes and encoding', async () => {
    const cell = fc.string({ unit: 'grapheme', maxLength: 12 }).map((text) => text.replace(/[\0\ufeff]/g, ''))
    const rows = fc.array(fc.tuple(cell, cell), { maxLength: 8 })
    await fc.assert(
      fc.asyncProperty(rows, fc.constantFrom(',', ';', '\t', '|'), fc.boolean(), async (cells, separator, wide) => {
        const quoted = (text: string) => `"${text.replace(/"/g, '""')}"`
        const table = [['text', 'other'], ...cells.map(([text, other]) => [`x${text}`, other])]
        const csv = table.map((row) => row.map(quoted).join(separator)).join('\n')
        const bytes = wide ? Buffer.from(`\ufeff${csv}`, 'utf16le') : Buffer.from(csv)
        const documents = await documentsOf([write('f.csv', bytes)])
        expect(documents.map(({ text, metadata }) => [text, metadata.other])).toEqual(
          cells.map(([text, other]) => [`x${text}`, other]),
        )
      }),
      { numRuns: 50 },
    )
  })
})

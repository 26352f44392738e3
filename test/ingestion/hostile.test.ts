import { closeSync, ftruncateSync, openSync, symlinkSync, truncateSync, writeSync } from 'node:fs'
import { join } from 'node:path'
import { deflateSync } from 'node:zlib'
import { afterEach, describe, expect, test } from 'vitest'
import { documentsOf, docxOf, failuresOf, ingestAll, paragraph, pdfOf, scratchFolder } from './support.ts'

const { root, write } = scratchFolder()
const MIB = 1024 * 1024

// whatever a file did to its reader, the next file is read
afterEach(async () => {
  const [document] = await documentsOf([write('after.pdf', pdfOf([['Still here']]))])
  expect(document?.text).toBe('Still here')
})

describe('PDF', () => {
  test('one of 200 MB is read, one beyond the limit refused unread', async () => {
    const pdf = pdfOf([['Found in a haystack']], { ballast: Buffer.alloc(16) })
    // a hole in the middle, and the table of the end moved along
    const hole = 200 * MIB
    const cut = pdf.indexOf('\nendstream', pdf.indexOf('/Length 16')) - 16
    const text = pdf.toString('latin1')
    const [front, back] = [text.slice(0, cut).replace('/Length 16 ', `/Length ${hole + 16} `), text.slice(cut)]
    const shift = hole + front.length - cut
    const moved = back.replace(/startxref\n(\d+)/, (_, at: string) => `startxref\n${Number(at) + shift}`)
    const path = join(root, 'large.pdf')
    const file = openSync(path, 'w')
    writeSync(file, front, 0, 'latin1')
    ftruncateSync(file, front.length + hole)
    writeSync(file, moved, front.length + hole, 'latin1')
    closeSync(file)
    const [document] = await documentsOf([path])
    expect(document?.text).toBe('Found in a haystack')
    truncateSync(path, 300 * MIB)
    expect(await failuresOf([path])).toEqual([expect.stringMatching(/too large.*at most 256\.0 MiB.*Got 300\.0 MiB/)])
  })

  test('one that unpacks without end costs an error, not the memory', async () => {
    const bomb = deflateSync(Buffer.alloc(160 * MIB, ' '), { level: 1 })
    const objects = [
      '<< /Type /Catalog /Pages 2 0 R >>',
      '<< /Type /Pages /Count 1 /Kids [3 0 R] >>',
      '<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R >>',
    ].map((body, index) => `${index + 1} 0 obj\n${body}\nendobj\n`)
    const pdf = Buffer.concat([
      Buffer.from(`%PDF-1.4\n${objects.join('')}4 0 obj\n<< /Length ${bomb.length} /Filter /FlateDecode >>\nstream\n`),
      bomb,
      Buffer.from('\nendstream\nendobj\ntrailer << /Root 1 0 R /Size 5 >>\n%%EOF'),
    ])
    expect(await failuresOf([write('bomb.pdf', pdf)], { limits: { memoryMiB: 200 } })).toEqual([
      expect.stringMatching(/bomb\.pdf" takes too much memory to read\. Expected at most 200 MiB/),
    ])
  })

  test('one that takes too long is given up', async () => {
    const pdf = write('slow.pdf', pdfOf(Array.from({ length: 300 }, () => Array(30).fill('Many words on a line.'))))
    expect(await failuresOf([pdf], { limits: { seconds: 0.01 } })).toEqual([
      expect.stringMatching(/slow\.pdf" takes too long to read\. Expected at most 0\.01 seconds/),
    ])
  })

  test('reading stops when it is no longer wanted', async () => {
    const pdf = write('unwanted.pdf', pdfOf(Array.from({ length: 300 }, () => Array(30).fill('Many words on a line.'))))
    const controller = new AbortController()
    const reading = ingestAll([pdf], {
      signal: controller.signal,
      known: () => void setTimeout(() => controller.abort(), 5),
    })
    await expect(reading).rejects.toThrow(/aborted/i)
  })
})

describe('Word', () => {
  test('a zip bomb is refused by the sizes that it claims', async () => {
    const bomb = docxOf(paragraph('x'), [{ name: 'word/footnotes.xml', data: Buffer.alloc(70 * MIB, ' ') }])
    expect(bomb.length).toBeLessThan(MIB)
    expect(await failuresOf([write('bomb.docx', bomb)])).toEqual([
      expect.stringMatching(/would unpack to too much\. Expected at most 64 MiB of XML\. Got 70 MiB/),
    ])
  })

  test('one that lies about its sizes is stopped while it unpacks', async () => {
    const data = Buffer.alloc(70 * MIB, ' ')
    const liar = docxOf(paragraph('x'), [{ name: 'word/footnotes.xml', data, claimedSize: 1000 }])
    expect(await failuresOf([write('liar.docx', liar)])).toEqual([
      expect.stringMatching(/"word\/footnotes\.xml" does not unpack to the size that it claims \(/),
    ])
  })

  test.each<[string, Buffer, RegExp]>([
    ['encrypted', docxOf('', [{ name: 'word/x.xml', data: 'x', flags: 1 }]), /is encrypted/],
    ['a name twice', docxOf(paragraph('x'), [{ name: 'word/document.xml', data: 'x' }]), /stands in it twice/],
    ['4 GiB and more', docxOf('', [{ name: 'a.xml', data: 'x', claimedSize: 0xffffffff }]), /unpack to too much/],
  ])('%s', async (_, bytes, message) => {
    expect(await failuresOf([write('bad.docx', bytes)])).toEqual([expect.stringMatching(message)])
  })

  test('entities are not unfolded, names inside lead nowhere', async () => {
    const laughs = `<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>`
    const evil = { name: 'word/comments.xml', data: `${laughs}<w:comments>&b;&b;</w:comments>` }
    expect(await failuresOf([write('laughs.docx', docxOf(paragraph('x'), [evil]))])).toHaveLength(1)
    const outside = { name: '../../../../tmp/evil.xml', data: 'x' }
    const [document] = await documentsOf([write('outside.docx', docxOf(paragraph('Harmless'), [outside]))])
    expect(document?.text).toBe('Harmless')
  })

  test('elements nested 20,000 deep are an error', async () => {
    const deep = docxOf('<w:p>'.repeat(20_000) + '</w:p>'.repeat(20_000))
    expect(await failuresOf([write('deep.docx', deep)])).toHaveLength(1)
  })
})

describe('HTML', () => {
  test.each([
    ['closed', `${'<div>'.repeat(100_000)}Deep <script>evil()</script>down${'</div>'.repeat(100_000)}`],
    ['not closed', `${'<b><i>'.repeat(50_000)}Deep down`],
    ['fewer', `${'<div>'.repeat(5_000)}Deep down`],
    ['closed by others', `${'<div>'.repeat(100_000)}Deep ${'</span>'.repeat(100_000)}down`],
    ['lists and tables', `${'<ul><li><table><tr><td>'.repeat(20_000)}Deep down`],
  ])('up to 100,000 nested tags, %s, are read without a stack', async (_, body) => {
    const [document] = await documentsOf([write('deep.html', `<html><body>${body}</body></html>`)])
    expect(document?.text.replace(/[-\s]+/g, ' ').trim()).toBe('Deep down')
  })

  test('scripts are not executed, whatever they are called', async () => {
    const tricks =
      '<scr<script>ipt>alert(1)</script><img src=x onerror=alert(2)><svg><script>alert(3)</script></svg><a href="javascript:alert(4)">Text</a>'
    const [document] = await documentsOf([write('script.html', tricks)])
    expect(document?.text).not.toMatch(/alert\([234]\)/)
    expect(document?.text).toMatch(/Text$/)
  })
})

describe('text', () => {
  test('a huge line is read, NUL characters are not, a cell without end is refused', async () => {
    const line = 'word '.repeat(2_000_000)
    expect((await documentsOf([write('line.txt', line)]))[0]?.text).toBe(line)
    expect(await failuresOf([write('nul.md', 'a\0b')])).toEqual([expect.stringMatching(/NUL character/)])
    const limits = { recordBytes: 10_000 }
    const endless = [
      write('quote.csv', `text,other\na,b\n"${'c\n'.repeat(50_000)}`),
      write('commas.csv', `text,other\n${','.repeat(100_000)}\n`),
      write('long.jsonl', `{"text": "${'x'.repeat(50_000)}"}\n`),
    ]
    expect(await failuresOf(endless, { limits })).toEqual([
      expect.stringMatching(/row of .*quote\.csv.* too long.*at most 10000 bytes/),
      expect.stringMatching(/row of .*commas\.csv.* too long/),
      expect.stringMatching(/line of .*long\.jsonl" is too long.*at most 10000/),
    ])
    expect(await failuresOf([write('size.txt', 'x'.repeat(2000))], { limits: { bytes: 1000 } })).toEqual([
      expect.stringMatching(/too large/),
    ])
  })

  test('a link to itself, a pipe and what is missing are reported, and the rest is read', async () => {
    symlinkSync('loop.txt', join(root, 'loop.txt'))
    const inputs = [
      join(root, 'loop.txt'),
      '/dev/null',
      join(root, 'none.txt'),
      write('fine.txt', 'fine'),
      join(root, 'none', '*.md'),
    ]
    const events = await ingestAll(inputs)
    expect(events.map((event) => ('reason' in event ? event.reason : event.kind))).toEqual([
      expect.stringMatching(/loop\.txt" (?:is a symbolic link that leads nowhere|cannot be read)/),
      expect.stringMatching(/null" is not a file/),
      expect.stringMatching(/none\.txt" does not exist/),
      'document',
      'read',
      expect.stringMatching(/none" does not exist/),
    ])
  })
})

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { deflateRawSync } from 'node:zlib'
import { afterAll } from 'vitest'
import { type Ingested, type IngestOptions, ingest, type SourceDocument } from '../../src/ingestion/ingest.ts'

/** A folder that is gone after the tests of the file; `write` puts files into it. */
export function scratchFolder() {
  const root = mkdtempSync(join(tmpdir(), 'clara-ingest-'))
  afterAll(() => rmSync(root, { recursive: true, force: true }))
  return {
    root,
    write(name: string, content: string | Uint8Array): string {
      const path = join(root, name)
      mkdirSync(dirname(path), { recursive: true })
      writeFileSync(path, content)
      return path
    },
  }
}

export async function collect<Value>(values: AsyncIterable<Value>): Promise<Value[]> {
  const all: Value[] = []
  for await (const value of values) all.push(value)
  return all
}

export const ingestAll = (inputs: readonly string[], options: IngestOptions = {}): Promise<Ingested[]> =>
  collect(ingest(inputs, options))

/** The documents of files that can all be read. */
export async function documentsOf(inputs: readonly string[], options: IngestOptions = {}): Promise<SourceDocument[]> {
  const events = await ingestAll(inputs, options)
  return events.flatMap((event) => {
    if (event.kind === 'failed' || event.kind === 'problem') throw new Error(event.reason)
    return event.kind === 'document' ? [event.document] : []
  })
}

/** Why files cannot be read. */
export async function failuresOf(inputs: readonly string[], options: IngestOptions = {}): Promise<string[]> {
  const events = await ingestAll(inputs, options)
  return events.flatMap((event) => (event.kind === 'failed' ? [event.reason] : []))
}

// ---- PDF -------------------------------------------------------------------------------------------------------------

export interface PdfOptions {
  readonly title?: string
  readonly encrypted?: boolean
  /** Bookmarks: title and page, from 0. */
  readonly bookmarks?: readonly (readonly [string, number])[]
  /** Put in as an object that nothing refers to. */
  readonly ballast?: Buffer
}

/** A PDF of one line of text for each string of a page; an empty page has no text. */
export function pdfOf(pages: readonly (readonly string[])[], options: PdfOptions = {}): Buffer {
  const objects: (string | Buffer)[] = []
  const add = (body: string | Buffer) => objects.push(body)
  const [catalog, tree, font] = [add(''), add(''), add('<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>')]
  const escaped = (text: string) => text.replace(/[\\()]/g, '\\$&')
  const pageNumbers = pages.map((lines) => {
    let y = 760
    const shown = lines.map((line) => {
      y -= line === '' ? 14 : 14
      return line === '' ? '' : `BT /F1 12 Tf 50 ${y} Td (${escaped(line)}) Tj ET`
    })
    const content = shown.join('\n')
    const stream = add(`<< /Length ${content.length} >>\nstream\n${content}\nendstream`)
    return add(
      `<< /Type /Page /Parent ${tree} 0 R /MediaBox [0 0 612 792] /Contents ${stream} 0 R /Resources << /Font << /F1 ${font} 0 R >> >> >>`,
    )
  })
  let outlines = ''
  if (options.bookmarks) {
    const root = objects.length + 1
    const first = root + 1
    const count = options.bookmarks.length
    add(`<< /Type /Outlines /First ${first} 0 R /Last ${root + count} 0 R /Count ${count} >>`)
    options.bookmarks.forEach(([title, page], index) => {
      const next = index + 1 < count ? `/Next ${first + index + 1} 0 R` : ''
      const previous = index > 0 ? `/Prev ${first + index - 1} 0 R` : ''
      add(
        `<< /Title (${escaped(title)}) /Parent ${root} 0 R ${next} ${previous} /Dest [${pageNumbers[page]} 0 R /Fit] >>`,
      )
    })
    outlines = `/Outlines ${root} 0 R`
  }
  objects[catalog - 1] = `<< /Type /Catalog /Pages ${tree} 0 R ${outlines} >>`
  objects[tree - 1] =
    `<< /Type /Pages /Count ${pages.length} /Kids [${pageNumbers.map((number) => `${number} 0 R`).join(' ')}] >>`
  const information = add(`<< /Title (${escaped(options.title ?? '')}) >>`)
  if (options.ballast) {
    add(
      Buffer.concat([
        Buffer.from(`<< /Length ${options.ballast.length} >>\nstream\n`),
        options.ballast,
        Buffer.from('\nendstream'),
      ]),
    )
  }
  // keys that belong to no password
  const encryption = options.encrypted
    ? `/ID [<${'00'.repeat(16)}> <${'00'.repeat(16)}>] /Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <${'a1'.repeat(32)}> /U <${'b2'.repeat(32)}> >>`
    : ''
  const parts: Buffer[] = [Buffer.from('%PDF-1.4\n')]
  let at = parts[0]?.length ?? 0
  const offsets = objects.map((body, index) => {
    const bytes = Buffer.concat([Buffer.from(`${index + 1} 0 obj\n`), Buffer.from(body), Buffer.from('\nendobj\n')])
    const offset = at
    parts.push(bytes)
    at += bytes.length
    return offset
  })
  const table = offsets.map((offset) => `${String(offset).padStart(10, '0')} 00000 n \n`).join('')
  parts.push(
    Buffer.from(
      `xref\n0 ${objects.length + 1}\n0000000000 65535 f \n${table}trailer\n<< /Size ${objects.length + 1} /Root ${catalog} 0 R /Info ${information} 0 R ${encryption} >>\nstartxref\n${at}\n%%EOF\n`,
    ),
  )
  return Buffer.concat(parts)
}

// ---- Word ------------------------------------------------------------------------------------------------------------

export interface ZipEntryOptions {
  readonly name: string
  readonly data: Buffer | string
  /** What the archive claims; the truth where absent. */
  readonly claimedSize?: number
  readonly flags?: number
}

function zipOf(entries: readonly ZipEntryOptions[]): Buffer {
  const parts: Buffer[] = []
  const directory: Buffer[] = []
  let at = 0
  for (const { name, data, claimedSize, flags = 0 } of entries) {
    const content = Buffer.from(data)
    const packed = deflateRawSync(content)
    const nameBytes = Buffer.from(name)
    const local = Buffer.alloc(30)
    local.writeUInt32LE(0x04034b50, 0)
    local.writeUInt16LE(8, 8)
    local.writeUInt32LE(packed.length, 18)
    local.writeUInt32LE(claimedSize ?? content.length, 22)
    local.writeUInt16LE(nameBytes.length, 26)
    const entry = Buffer.alloc(46)
    entry.writeUInt32LE(0x02014b50, 0)
    entry.writeUInt16LE(flags, 8)
    entry.writeUInt16LE(8, 10)
    entry.writeUInt32LE(packed.length, 20)
    entry.writeUInt32LE(claimedSize ?? content.length, 24)
    entry.writeUInt16LE(nameBytes.length, 28)
    entry.writeUInt32LE(at, 42)
    directory.push(entry, nameBytes)
    parts.push(local, nameBytes, packed)
    at += 30 + nameBytes.length + packed.length
  }
  const size = directory.reduce((sum, part) => sum + part.length, 0)
  const end = Buffer.alloc(22)
  end.writeUInt32LE(0x06054b50, 0)
  end.writeUInt16LE(entries.length, 8)
  end.writeUInt16LE(entries.length, 10)
  end.writeUInt32LE(size, 12)
  end.writeUInt32LE(at, 16)
  return Buffer.concat([...parts, ...directory, end])
}

const types = `<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"><Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/><Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/></Types>`
const relations = `<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="rId1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" Target="word/document.xml"/></Relationships>`
const core = `<?xml version="1.0"?><cp:coreProperties xmlns:cp="http://schemas.openxmlformats.org/package/2006/metadata/core-properties" xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>Minutes &amp; notes</dc:title><dc:creator>Ada</dc:creator></cp:coreProperties>`
const styles = `<?xml version="1.0"?><w:styles xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">${[
  1, 2,
]
  .map(
    (level) => `<w:style w:type="paragraph" w:styleId="Heading${level}"><w:name w:val="heading ${level}"/></w:style>`,
  )
  .join('')}</w:styles>`

/** A Word document whose body is the given XML of WordprocessingML. */
export function docxOf(body: string, more: readonly ZipEntryOptions[] = []): Buffer {
  const document = `<?xml version="1.0"?><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>${body}</w:body></w:document>`
  return zipOf([
    { name: '[Content_Types].xml', data: types },
    { name: '_rels/.rels', data: relations },
    { name: 'word/document.xml', data: document },
    { name: 'word/styles.xml', data: styles },
    { name: 'docProps/core.xml', data: core },
    ...more,
  ])
}

export const paragraph = (text: string, style?: string): string =>
  `<w:p>${style === undefined ? '' : `<w:pPr><w:pStyle w:val="${style}"/></w:pPr>`}<w:r><w:t>${text}</w:t></w:r></w:p>`

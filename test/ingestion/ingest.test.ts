import { renameSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { join, relative } from 'node:path'
import { Readable } from 'node:stream'
import { describe, expect, test } from 'vitest'
import { type Ingested, ingest } from '../../src/ingestion/ingest.ts'
import type { Stamp } from '../../src/ingestion/source.ts'
import { documentsOf, ingestAll, pdfOf, scratchFolder } from './support.ts'

const { root, write } = scratchFolder()
const old = new Date('2020-01-01')

/** Reads as a knowledge base does: stamps are kept, and given back next time. */
function reader() {
  const stamps = new Map<string, Stamp>()
  return async (inputs: readonly string[]): Promise<Ingested[]> => {
    const events = await ingestAll(inputs, { known: (path) => stamps.get(path) })
    for (const event of events) if ('stamp' in event) stamps.set(event.path, event.stamp)
    return events
  }
}
const kinds = (events: readonly Ingested[]) => events.map(({ kind }) => kind)

describe('what is unchanged costs nothing', () => {
  test('a file of the same size and time is not opened, one of the same bytes not read as a document', async () => {
    const path = write('stamps/a.txt', 'one')
    utimesSync(path, old, old)
    const read = reader()
    const first = await read([path])
    expect(kinds(first)).toEqual(['document', 'read'])
    expect(first[1]).toMatchObject({
      // sha256 of "one"
      stamp: {
        size: 3,
        mtimeMs: old.getTime(),
        sha256: '7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed',
      },
    })
    expect(kinds(await read([path]))).toEqual(['unchanged'])
    // size and time are believed: this is what makes it free
    writeFileSync(path, 'two')
    utimesSync(path, old, old)
    expect(kinds(await read([path]))).toEqual(['unchanged'])
    utimesSync(path, new Date('2021-01-01'), new Date('2021-01-01'))
    expect(kinds(await read([path]))).toEqual(['document', 'read'])
    utimesSync(path, new Date('2022-01-01'), new Date('2022-01-01'))
    expect(await read([path])).toMatchObject([
      { kind: 'unchanged', stamp: { mtimeMs: new Date('2022-01-01').getTime() } },
    ])
    write('stamps/a.txt', 'three')
    expect(kinds(await read([path]))).toEqual(['document', 'read'])
  })

  test('a file that was changed just now is not believed by its time', async () => {
    const path = write('stamps/b.txt', 'one')
    const read = reader()
    expect(await read([path])).toMatchObject([{}, { kind: 'read', stamp: { mtimeMs: 0 } }])
    const { atime, mtime } = statSync(path)
    writeFileSync(path, 'two')
    utimesSync(path, atime, mtime)
    expect(kinds(await read([path]))).toEqual(['document', 'read'])
    expect(kinds(await read([path]))).toEqual(['unchanged'])
  })

  test('a file that lost its text says that it has none', async () => {
    const path = write('stamps/c.txt', 'one')
    const read = reader()
    await read([path])
    write('stamps/c.txt', ' \n')
    expect(await read([path])).toMatchObject([{ kind: 'read', documents: 0 }])
  })
})

describe('inputs', () => {
  test('folders, files, globs; paths as they were given, normalised', async () => {
    for (const name of ['a.md', 'sub/b.md', 'sub/c.txt', 'sub/.d.md']) write(join('inputs', name), name)
    const base = relative(process.cwd(), join(root, 'inputs'))
    const ids = async (...inputs: string[]) => (await documentsOf(inputs)).map(({ id }) => id).sort()
    expect(await ids(`${base}/`)).toEqual([`${base}/a.md`, `${base}/sub/b.md`, `${base}/sub/c.txt`])
    expect(await ids(`${base}/sub/../a.md`, `./${base}/sub/.d.md`)).toEqual([`${base}/a.md`, `${base}/sub/.d.md`])
    expect(await ids(`${base}/**/*.md`)).toEqual([`${base}/a.md`, `${base}/sub/b.md`])
    expect(await ids(`${base}/*.{md,txt}`)).toEqual([`${base}/a.md`])
    // a name that looks like a glob is a name
    expect(await ids(write('inputs/[x].md', 'x'))).toEqual([join(root, 'inputs/[x].md')])
  })

  test('a binary file is skipped in a folder, and an error where it was named', async () => {
    const path = write('binary/data', Uint8Array.of(1, 0, 2))
    expect(await ingestAll([join(root, 'binary')])).toEqual([{ kind: 'skipped', path, reason: 'binary' }])
    expect(await ingestAll([path])).toMatchObject([{ kind: 'failed', reason: expect.stringMatching(/is binary/) }])
    expect(await ingestAll([write('binary/x.png', 'text after all')])).toMatchObject([{ kind: 'document' }, {}])
  })

  test('standard input, as text, as what it is, or as what it is said to be', async () => {
    const from = (...pieces: (string | Uint8Array)[]) => Readable.from(pieces.map((piece) => Buffer.from(piece)))
    expect(await documentsOf(['-'], { stdin: from('some ', 'text') })).toMatchObject([
      { id: '-', source: '-', text: 'some text' },
    ])
    expect(await documentsOf(['-'], { stdin: from(pdfOf([['A page']])) })).toMatchObject([{ text: 'A page' }])
    const records = await documentsOf(['-'], { stdin: from('{"text":"o', 'ne"}\n{"text":"two"}'), reader: 'jsonl' })
    expect(records.map(({ id, text }) => [id, text])).toEqual([
      ['-#1', 'one'],
      ['-#2', 'two'],
    ])
    expect(await ingestAll(['-'], { stdin: from('') })).toMatchObject([{ kind: 'read', documents: 0 }])
  })

  test('options that are not right are an error before anything is read', async () => {
    await expect(ingestAll(['-'], { limits: { bytes: 0 } })).rejects.toThrow(
      /options of reading files.*"limits\.bytes"/,
    )
    await expect(ingestAll(['-'], JSON.parse('{"includes": []}'))).rejects.toThrow(/includes/)
  })
})

test('one bad file stops nothing, and says its name and why', async () => {
  write('mixed/a.txt', 'fine')
  write('mixed/b.txt', Uint8Array.of(0x41, 0xe5, 0x41))
  write('mixed/c\n.pdf', 'no pdf')
  write('mixed/d.txt', 'fine')
  const events = await ingestAll([join(root, 'mixed')])
  const failed = events.flatMap((event) => (event.kind === 'failed' ? [event] : []))
  expect(events.filter(({ kind }) => kind === 'read')).toHaveLength(2)
  expect(failed.map(({ path }) => path).sort()).toEqual([join(root, 'mixed/b.txt'), join(root, 'mixed/c\n.pdf')])
  // a line end in a name does not become one in a message
  for (const { reason } of failed) expect(reason).not.toContain('\n')
})

test('nothing is read before it is asked for', async () => {
  for (let index = 0; index < 50; index++) write(`lazy/${index}.txt`, 'text')
  let asked = 0
  const events = ingest([join(root, 'lazy')], { known: () => void asked++ })
  for (let taken = 0; taken < 4; taken++) await events.next()
  expect(asked).toBe(2)
  await events.return()
  // and a file that goes away meanwhile is just not there
  const rest = ingest([join(root, 'lazy')])
  await rest.next()
  renameSync(join(root, 'lazy'), join(root, 'moved'))
  for await (const event of rest) if (event.kind === 'failed') expect(event.reason).toMatch(/does not exist/)
})

test('a table is read row by row, however long it is', async () => {
  let given = 0
  async function* endless() {
    yield Buffer.from('text\n')
    for (;;) {
      given += 1
      yield Buffer.from('a row\n'.repeat(1000))
    }
  }
  let documents = 0
  for await (const event of ingest(['-'], { stdin: endless(), reader: 'csv' })) {
    expect(event.kind).toBe('document')
    documents += 1
    if (documents === 20_000) break
  }
  // what is read ahead is bounded
  expect(given).toBeLessThan(60)
})

import { chmodSync, mkdirSync, mkdtempSync, renameSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { KnowledgeBase } from '../../src/knowledge/knowledge-base.ts'
import { addWithoutModel, syncWithoutModel } from '../../src/knowledge/unchanged.ts'
import { fakeModel } from './fake-model.ts'

let folder = ''
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'clara-files-'))
  mkdirSync(join(folder, 'docs/deep'), { recursive: true })
  write('docs/oslo.md', '# Oslo\n\nOslo is the capital of Norway.\n')
  write('docs/deep/rome.txt', 'Rome is the capital of Italy.')
  write('docs/people.jsonl', '{"id":"ada","text":"Ada wrote a program."}\n{"id":"alan","text":"Alan broke a code."}\n')
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

const at = (path: string) => join(folder, path)
const write = (path: string, text: string) => writeFileSync(at(path), text)

async function open() {
  const clara = fakeModel()
  return { clara, knowledge: await KnowledgeBase.open({ clara }) }
}

const idsIn = async (knowledge: KnowledgeBase) =>
  (await knowledge.search('capital wrote broke program code Oslo Rome', { topK: 99 }))
    .map(({ documentId }) => documentId.slice(folder.length + 1))
    .sort()

describe('adding files', () => {
  test('a folder: its files are documents, its records too, and sources say where they stand', async () => {
    const { knowledge } = await open()
    const { files, ...added } = await knowledge.addFiles([at('docs')])
    expect(added).toEqual({ documents: 4, compressed: 4, unchanged: 0 })
    expect(files).toMatchObject({ read: 3, unchanged: 0, failed: 0, problems: [] })
    expect(await idsIn(knowledge)).toEqual([
      'docs/deep/rome.txt',
      'docs/oslo.md',
      'docs/people.jsonl#ada',
      'docs/people.jsonl#alan',
    ])
    const [oslo] = await knowledge.search('capital of Norway', { topK: 1 })
    expect(oslo).toMatchObject({ documentId: at('docs/oslo.md'), headings: ['Oslo'], metadata: { title: 'Oslo' } })
    expect(await knowledge.stats()).toMatchObject({ documents: 4, files: 3, incomplete: 0, chunks: 4 })
  })

  test('what has not changed is not read, what has replaces its documents, records that are gone go', async () => {
    const { clara, knowledge } = await open()
    await knowledge.addFiles([at('docs')])
    const again = await knowledge.addFiles([at('docs')])
    expect(again).toMatchObject({ documents: 0, compressed: 0, unchanged: 2, files: { read: 0, unchanged: 3 } })

    write('docs/deep/rome.txt', 'Rome was not built in a day.')
    write(
      'docs/people.jsonl',
      '{"id":"ada","text":"Ada wrote a program."}\n{"id":"grace","text":"Grace found a bug."}\n',
    )
    clara.compressed.length = 0
    const changed = await knowledge.addFiles([at('docs')])
    expect(changed).toMatchObject({ compressed: 2, files: { read: 2, unchanged: 1 } })
    expect(clara.compressed.sort()).toEqual(['Grace found a bug.', 'Rome was not built in a day.'])
    const all = await knowledge.search('Rome Grace Ada Oslo', { topK: 99 })
    expect(all.map(({ documentId }) => documentId.slice(folder.length + 1)).sort()).toEqual([
      'docs/deep/rome.txt',
      'docs/oslo.md',
      'docs/people.jsonl#ada',
      'docs/people.jsonl#grace',
    ])
  })

  test('a file that only lost a record is not read again, whatever else is added beside it', async () => {
    const { clara, knowledge } = await open()
    await knowledge.addFiles([at('docs')])
    write('docs/people.jsonl', '{"id":"ada","text":"Ada wrote a program."}\n')
    write('new.txt', 'Something new.')
    clara.compressed.length = 0
    expect((await knowledge.addFiles([at('docs/people.jsonl'), at('new.txt')])).files.read).toBe(2)
    expect(clara.compressed).toEqual(['Something new.'])
    expect(await idsIn(knowledge)).not.toContain('docs/people.jsonl#alan')
    expect((await knowledge.addFiles([at('docs'), at('new.txt')])).files).toMatchObject({ read: 0, unchanged: 4 })
  })

  test('an interrupted file is read again, and what it no longer holds goes', async () => {
    const { knowledge } = await open()
    const records = (from: number) =>
      Array.from({ length: 300 }, (_, n) => `{"id":"r${from + n}","text":"Record ${from + n}."}`).join('\n')
    write('many.jsonl', records(0))
    const stop = new AbortController()
    const onProgress = ({ done }: { done: number }) => {
      if (done > 40) stop.abort(new Error('enough'))
    }
    await expect(knowledge.addFiles([at('many.jsonl')], { signal: stop.signal, onProgress })).rejects.toThrow('enough')
    expect(await knowledge.count()).toBeGreaterThan(40)
    write('many.jsonl', records(200))
    await knowledge.addFiles([at('many.jsonl')])
    expect(await knowledge.count()).toBe(300)
    expect(await knowledge.stats()).toMatchObject({ documents: 300, incomplete: 0, files: 1 })
  })

  test('read otherwise, a file is read again', async () => {
    const { knowledge } = await open()
    await knowledge.addFiles([at('docs/oslo.md')])
    expect((await knowledge.addFiles([at('docs/oslo.md')], { context: 'none' })).files.read).toBe(1)
    expect((await knowledge.addFiles([at('docs/oslo.md')], { context: 'none' })).files.read).toBe(0)
  })

  test('what cannot be read is reported, and the rest is added', async () => {
    const { knowledge } = await open()
    write('docs/bad.jsonl', '{"text":"Fine."}\n{"text":\n')
    const { files, documents } = await knowledge.addFiles([at('none.txt'), at('docs/bad.jsonl')])
    expect(documents).toBe(1)
    expect(files.failed).toBe(1)
    expect(files.problems).toHaveLength(2)
    expect(files.problems[0]).toMatchObject({ path: at('none.txt') })
  })

  test('ten thousand records with the same id are the last one', async () => {
    const { clara, knowledge } = await open()
    write('same.jsonl', Array.from({ length: 10_000 }, (_, n) => `{"id":"x","text":"Version ${n}."}`).join('\n'))
    await knowledge.addFiles([at('same.jsonl')], { fields: { id: 'id' } })
    expect(await knowledge.count()).toBe(1)
    expect(clara.compressed.at(-1)).toBe('Version 9999.')
    expect(clara.compressed.length).toBeLessThan(100)
  })
})

describe('syncing', () => {
  test('removes what is gone below the inputs, and nothing else', async () => {
    const { knowledge } = await open()
    write('other.txt', 'Another program.')
    await knowledge.add([{ id: 'own', text: 'A program wrote this.' }])
    await knowledge.addFiles([at('docs'), at('other.txt')])
    rmSync(at('docs/people.jsonl'))
    rmSync(at('other.txt'))
    renameSync(at('docs/deep'), at('docs/deeper'))
    const synced = await knowledge.sync([at('docs')])
    expect(synced).toMatchObject({ removed: { documents: 3, chunks: 3 }, compressed: 1, files: { failed: 0 } })
    expect((await idsIn(knowledge)).filter((id) => id !== '')).toEqual([
      'docs/deeper/rome.txt',
      'docs/oslo.md',
      'other.txt',
    ])
    expect(await knowledge.count({ documentIds: ['own'] })).toBe(1)
    expect(await knowledge.sync([at('other.txt')])).toMatchObject({ removed: { documents: 1 }, files: { failed: 0 } })
    expect(await knowledge.sync([at('other.txt')])).toMatchObject({ removed: { documents: 0 }, files: { failed: 1 } })
  })

  test('a glob, and a file that the rules leave out from now on', async () => {
    const { knowledge } = await open()
    await knowledge.sync([at('docs')])
    rmSync(at('docs/oslo.md'))
    rmSync(at('docs/deep/rome.txt'))
    expect(await knowledge.sync([at('docs/**/*.txt')])).toMatchObject({ removed: { documents: 1 } })
    write('docs/.gitignore', '*.jsonl\n')
    expect(await knowledge.sync([at('docs')])).toMatchObject({ removed: { documents: 3 } })
    expect(await knowledge.count()).toBe(0)
  })

  test('what cannot be looked at is kept', async () => {
    const { knowledge } = await open()
    await knowledge.sync([at('docs')])
    chmodSync(at('docs/deep'), 0)
    try {
      expect(await knowledge.sync([at('docs')])).toMatchObject({ removed: { documents: 0 } })
    } finally {
      chmodSync(at('docs/deep'), 0o755)
    }
  })

  test('removing by file and by folder', async () => {
    const { knowledge } = await open()
    await knowledge.addFiles([at('docs')])
    expect(await knowledge.removeFiles([at('docs/people.jsonl')])).toEqual({ documents: 2, chunks: 2 })
    expect(await knowledge.removeFiles([at('docs/')])).toEqual({ documents: 2, chunks: 2 })
    expect(await knowledge.stats()).toMatchObject({ documents: 0, chunks: 0, files: 0 })
  })
})

describe('adding without a model', () => {
  const facts = { fingerprint: 'fake', docMaxLength: 8 }
  const add = () => addWithoutModel(at('kb'), [at('docs')], {}, facts)
  async function addWithModel(): Promise<void> {
    await using knowledge = await KnowledgeBase.open(at('kb'), { clara: fakeModel() })
    await knowledge.addFiles([at('docs')])
  }

  test('reports what a knowledge base would while nothing changed, and leaves everything else to it', async () => {
    expect(await add()).toBeUndefined()
    await addWithModel()
    await using knowledge = await KnowledgeBase.open(at('kb'), { clara: fakeModel() })
    expect(await add()).toEqual(await knowledge.addFiles([at('docs')]))
    expect(await add()).toMatchObject({ compressed: 0, unchanged: 2, files: { read: 0, unchanged: 3 } })
    expect(await addWithoutModel(at('kb'), [at('docs')], { overlap: 2 }, facts)).toBeUndefined()
    expect(await addWithoutModel(at('kb'), [at('docs')], {}, { ...facts, docMaxLength: 9 })).toBeUndefined()
    expect(await addWithoutModel(at('kb'), [at('docs')], {}, { ...facts, fingerprint: 'other' })).toBeUndefined()
    expect(await addWithoutModel(at('kb'), ['-'], {}, facts)).toBeUndefined()

    // a new time with the same content is noted; then the file need not be read again
    utimesSync(at('docs/oslo.md'), new Date(), new Date(Date.now() - 3_600_000))
    expect(await add()).toMatchObject({ files: { unchanged: 3 } })
    write('docs/empty.txt', '  ')
    expect(await add()).toMatchObject({ compressed: 0, files: { read: 1, unchanged: 3 } })
    write('docs/new.txt', 'Something new.')
    expect(await add()).toBeUndefined()
    await addWithModel()
    write('docs/oslo.md', '# Oslo\n\nOslo is a town.\n')
    expect(await add()).toBeUndefined()
    await addWithModel()
    expect(await add()).toMatchObject({ files: { read: 1, unchanged: 4 } })
    expect(await knowledge.verify()).toMatchObject({ damaged: [] })
  })

  test('sync removes what is gone', async () => {
    await addWithModel()
    rmSync(at('docs/deep'), { recursive: true })
    expect(await syncWithoutModel(at('kb'), [at('docs')], {}, facts)).toMatchObject({
      compressed: 0,
      files: { unchanged: 2 },
      removed: { documents: 1, chunks: 1 },
    })
    await using knowledge = await KnowledgeBase.open(at('kb'), { clara: fakeModel() })
    expect(await idsIn(knowledge)).toEqual(['docs/oslo.md', 'docs/people.jsonl#ada', 'docs/people.jsonl#alan'])
  })
})

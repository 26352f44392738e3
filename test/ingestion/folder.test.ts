import { mkdirSync, realpathSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { dirname, join, sep } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { type FolderEntry, openFolder } from '../../src/ingestion/folder.ts'
import { folderOptionsSchema } from '../../src/ingestion/options.ts'
import { isBinaryName } from '../../src/ingestion/readers/choose.ts'
import { collect, scratchFolder } from './support.ts'

const { root: scratch, write } = scratchFolder()
let count = 0

/** A folder of its own with files (a name that ends in / is a folder). */
function folderOf(files: Readonly<Record<string, string>>): string {
  const name = `folder${count++}`
  mkdirSync(join(scratch, name))
  for (const [path, content] of Object.entries(files)) write(join(name, path), content)
  return join(scratch, name)
}

async function entriesOf(root: string, options = {}): Promise<FolderEntry[]> {
  const folder = await openFolder(root, folderOptionsSchema.parse(options))
  const entries = await collect(folder.walk())
  // whatever walk says of a path, look says too
  for (const entry of entries) {
    if (entry.kind !== 'failed' && !(entry.kind === 'skipped' && entry.reason.includes('another path'))) {
      expect(await folder.look(entry.path)).toEqual(entry)
    }
  }
  return entries
}

const filesOf = async (root: string, options = {}) =>
  (await entriesOf(root, options)).flatMap((entry) => (entry.kind === 'file' ? [entry.path] : [])).sort()

const reasonsOf = async (root: string, options = {}) =>
  Object.fromEntries(
    (await entriesOf(root, options)).flatMap((entry) => (entry.kind === 'skipped' ? [[entry.path, entry.reason]] : [])),
  )

describe('which files are read', () => {
  test('all but hidden, binary and fetched ones, each with a reason', async () => {
    const root = folderOf({
      'a.md': '',
      'b/c.txt': '',
      '.env': '',
      '.git/config': '',
      'x.png': '',
      'node_modules/m/a.md': '',
    })
    expect(await filesOf(root)).toEqual(['a.md', 'b/c.txt'])
    expect(await reasonsOf(root)).toEqual({
      '.env': 'hidden',
      '.git': 'hidden',
      'x.png': 'binary',
      node_modules: 'excluded',
    })
    expect(await filesOf(root, { hidden: true, ignoreFiles: false })).toEqual([
      '.env',
      '.git/config',
      'a.md',
      'b/c.txt',
      'node_modules/m/a.md',
    ])
  })

  test('ignore files, the inner over the outer, the later name over the earlier', async () => {
    const root = folderOf({
      '.gitignore': '*.log\n/build/\ntmp/\n# comment\n',
      '.claraignore': '!keep.log\nDraft*\n',
      'a.log': '',
      'keep.log': '',
      'build/x.txt': '',
      'sub/build/x.txt': '',
      'sub/.gitignore': '!a.log\n*.txt\n!build/\n',
      'sub/a.log': '',
      'sub/b.txt': '',
      'sub/tmp/.gitignore': '!*\n',
      'sub/tmp/x.md': '',
      'Draft 1.md': '',
      'draft.md': '',
    })
    expect(await filesOf(root)).toEqual(['draft.md', 'keep.log', 'sub/a.log'])
    expect(await reasonsOf(root)).toMatchObject({ 'a.log': 'ignored', build: 'ignored', 'sub/tmp': 'ignored' })
  })

  test('what an inner ignore file brings back is read, but for what is ignored by its name', async () => {
    const root = folderOf({
      '.gitignore': 'build/\n*.log\n',
      'build/a.md': '',
      'sub/.gitignore': '!build/\n',
      'sub/build/a.md': '',
      'sub/build/b.log': '',
    })
    expect(await filesOf(root)).toEqual(['sub/build/a.md'])
  })

  test('include takes globs, exclude what .gitignore takes', async () => {
    const root = folderOf({ 'a.md': '', 'b.txt': '', 'd/a.md': '', 'd/e/f.md': '', 'd/g.ts': '', 'x\ny/z.md': '' })
    expect(await filesOf(root, { include: ['*.md'] })).toEqual(['a.md', 'd/a.md', 'd/e/f.md', 'x\ny/z.md'])
    expect(await filesOf(root, { include: ['./*.md'] })).toEqual(['a.md'])
    expect(await filesOf(root, { include: ['d/**/*.{md,ts}'] })).toEqual(['d/a.md', 'd/e/f.md', 'd/g.ts'])
    expect(await filesOf(root, { exclude: ['d/', '*.txt'] })).toEqual(['a.md', 'x\ny/z.md'])
    expect(await filesOf(root, { include: ['../**', '/etc/*'] })).toEqual([])
  })

  test('a folder that does not exist, or is a file, is an error', async () => {
    const options = folderOptionsSchema.parse({})
    await expect(openFolder(join(scratch, 'none'), options)).rejects.toThrow(/none" does not exist/)
    await expect(openFolder(write('file.txt', ''), options)).rejects.toThrow(/file\.txt" is not a folder/)
  })
})

describe('symbolic links', () => {
  test('are left out, and followed on request as far as they stay inside, each folder once', async () => {
    const outside = folderOf({ 'secret.txt': 'x' })
    const root = folderOf({ 'a/b.md': '', 'c.md': '' })
    symlinkSync('..', join(root, 'a/up'))
    symlinkSync('a', join(root, 'self'))
    symlinkSync('c.md', join(root, 'd.md'))
    symlinkSync('gone.md', join(root, 'e.md'))
    symlinkSync('loop', join(root, 'loop'))
    symlinkSync(outside, join(root, 'out'))
    symlinkSync(join(outside, 'secret.txt'), join(root, 'secret.txt'))
    expect(await filesOf(root)).toEqual(['a/b.md', 'c.md'])
    expect(Object.values(await reasonsOf(root))).toEqual(Array(7).fill('a symbolic link'))
    const entries = await entriesOf(root, { followLinks: true })
    // whether a or the link to it comes first is the file system's choice
    const files = entries.flatMap((entry) => (entry.kind === 'file' ? [entry.path.replace('self/', 'a/')] : []))
    expect(files.sort()).toEqual(['a/b.md', 'c.md', 'd.md'])
    const skipped = entries.flatMap((entry) => (entry.kind === 'skipped' ? [entry.reason] : []))
    expect(skipped.sort()).toEqual([
      'a folder that was entered by another path',
      'a folder that was entered by another path',
      'a symbolic link that leads out of the folder',
      'a symbolic link that leads out of the folder',
    ])
    const failed = entries.flatMap((entry) => (entry.kind === 'failed' ? [entry.path] : []))
    expect(failed.sort()).toEqual(['e.md', 'loop'])
  })

  test('the folder itself may be one', async () => {
    const root = folderOf({ 'a.md': '' })
    symlinkSync(root, join(scratch, 'link'))
    expect(await filesOf(join(scratch, 'link'))).toEqual(['a.md'])
  })
})

test('whatever the names are, every file is found and none is outside', async () => {
  const name = fc
    .oneof(
      fc.string({ unit: 'grapheme', minLength: 1, maxLength: 12 }),
      fc.constantFrom(
        '..a',
        '...',
        'a\nb',
        '-',
        '-rf',
        ' ',
        '\\',
        '..\\..',
        '*',
        '[x]',
        '{a,b}',
        '!not',
        '#no',
        '~',
        '$HOME',
        '%2e%2e',
        'a\r',
        '\u202e',
      ),
    )
    .map((text) => text.replace(/[/\0]/g, '_'))
    .filter((text) => text !== '.' && text !== '..' && Buffer.byteLength(text) <= 200)
  const file = fc.array(name, { minLength: 1, maxLength: 3 }).map((names) => names.join('/'))
  await fc.assert(
    fc.asyncProperty(fc.uniqueArray(file, { maxLength: 6 }), fc.array(fc.tuple(file, name)), async (files, links) => {
      const root = folderOf({})
      const made = new Set<string>()
      for (const path of files) {
        try {
          mkdirSync(dirname(join(root, path)), { recursive: true })
          writeFileSync(join(root, path), 'x', { flag: 'wx' })
          made.add(path)
        } catch {
          // the name is taken by a folder or a file
        }
      }
      for (const [path, target] of links) {
        try {
          symlinkSync(join('../../..', target), join(root, path))
        } catch {}
      }
      try {
        const options = { hidden: true, ignoreFiles: false, followLinks: true }
        const found = await filesOf(root, options)
        const text = [...made].filter((path) => !isBinaryName(path)).sort()
        expect(found).toEqual(text)
        for (const path of found) expect(realpathSync(join(root, path)).startsWith(realpathSync(root) + sep)).toBe(true)
      } finally {
        rmSync(root, { recursive: true, force: true })
      }
    }),
    { numRuns: 60 },
  )
})

test('look goes nowhere but down', async () => {
  const root = folderOf({ 'a.md': '', 'b/c.md': '', '.hidden/x.md': '' })
  const folder = await openFolder(root, folderOptionsSchema.parse({}))
  for (const path of ['', '.', '..', '../x', 'b/../a.md', 'b//c.md', '/a.md', 'none.md', 'a.md/x', '.hidden/x.md']) {
    expect(await folder.look(path)).toBeUndefined()
  }
  expect(await folder.look('b/c.md')).toEqual({ kind: 'file', path: 'b/c.md' })
})

test('the walk begins anywhere, under the same rules', async () => {
  const root = folderOf({
    '.gitignore': '*.log\n',
    'a/.gitignore': 'x.md\n',
    'a/b/x.md': '',
    'a/b/y.md': '',
    'a/b/z.log': '',
    'c.md': '',
  })
  const folder = await openFolder(root, folderOptionsSchema.parse({}))
  const entries = await collect(folder.walk('a/b'))
  expect(entries.flatMap((entry) => (entry.kind === 'file' ? [entry.path] : []))).toEqual(['a/b/y.md'])
})

import { mkdirSync, renameSync, rmSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { type FolderChange, type WatchOptions, watchFolder } from '../../src/ingestion/watch.ts'
import { scratchFolder } from './support.ts'

const { root: scratch, write } = scratchFolder()
let count = 0
let controller = new AbortController()
afterEach(() => controller.abort())

/** A folder that is being watched, and what was reported until a condition holds. */
async function watched(files: readonly string[], options: WatchOptions = {}) {
  const name = `watched${count++}`
  mkdirSync(join(scratch, name))
  for (const file of files) write(join(name, file), 'x')
  controller = new AbortController()
  const root = join(scratch, name)
  const changes = watchFolder(root, { quietMs: 40, signal: controller.signal, ...options })
  expect((await changes.next()).value).toEqual({ rescan: true, changed: [], removed: [] })
  const reported = { changed: new Set<string>(), removed: new Set<string>() }
  /** Takes reports until the last word about each path is this. */
  async function until(changed: readonly string[], removed: readonly string[] = []): Promise<void> {
    while (!same(reported.changed, changed) || !same(reported.removed, removed)) {
      const { value } = await changes.next()
      if (!value) throw new Error('it ended')
      note(value)
    }
    reported.changed.clear()
    reported.removed.clear()
  }
  function note(change: FolderChange) {
    for (const path of change.removed) {
      reported.removed.add(path)
      reported.changed.delete(path)
    }
    for (const path of change.changed) {
      reported.changed.add(path)
      reported.removed.delete(path)
    }
  }
  return { root, changes, until }
}
const same = (set: ReadonlySet<string>, paths: readonly string[]) =>
  set.size === paths.length && paths.every((path) => set.has(path))

test('files that are written, replaced and removed, and none that are not read', async () => {
  const { root, until } = await watched(['a.md', 'sub/b.md', '.gitignore'])
  writeFileSync(join(root, 'sub/b.md'), 'changed')
  writeFileSync(join(root, '.hidden'), 'x')
  writeFileSync(join(root, 'picture.png'), 'x')
  await until(['sub/b.md'])
  // as editors save
  writeFileSync(join(root, '.a.tmp'), 'new')
  renameSync(join(root, '.a.tmp'), join(root, 'a.md'))
  await until(['a.md'])
  unlinkSync(join(root, 'a.md'))
  await until([], ['a.md'])
  symlinkSync('sub/b.md', join(root, 'a.md'))
  writeFileSync(join(root, 'last.md'), 'x')
  await until(['last.md'], ['a.md'])
})

test('folders that come, go and are renamed, with all that is in them', async () => {
  const { root, changes, until } = await watched(['a.md', 'old/x.md'])
  mkdirSync(join(root, 'new/deep'), { recursive: true })
  writeFileSync(join(root, 'new/deep/y.md'), 'x')
  await until(['new/deep/y.md'])
  writeFileSync(join(root, 'new/deep/y.md'), 'xy')
  await until(['new/deep/y.md'])
  renameSync(join(root, 'old'), join(root, 'new/moved'))
  await until(['new/moved/x.md'], ['old'])
  writeFileSync(join(root, 'new/moved/x.md'), 'changed')
  await until(['new/moved/x.md'])
  rmSync(join(root, 'new'), { recursive: true })
  mkdirSync(join(root, 'old'))
  writeFileSync(join(root, 'old/z.md'), 'x')
  // whether the parts of a removed folder are named too depends on the moment
  const told = new Set<string>()
  while (!told.has('new') || !told.has('old/z.md')) {
    const { value } = await changes.next()
    for (const path of [...(value?.removed ?? []), ...(value?.changed ?? [])]) told.add(path)
  }
})

test('a folder that another takes the place of is gone with all that was in it', async () => {
  const { root, changes } = await watched(['a/x.md', 'b/y.md'])
  renameSync(join(root, 'a'), join(root, '.aside'))
  renameSync(join(root, 'b'), join(root, 'a'))
  expect((await changes.next()).value).toEqual({ rescan: false, changed: ['a/y.md'], removed: ['a', 'b'] })
})

test('another ignore file, or too many changes at once, mean to look through everything', async () => {
  const { root, changes } = await watched(['a.md'])
  writeFileSync(join(root, '.gitignore'), '*.log\n')
  expect((await changes.next()).value).toMatchObject({ rescan: true })
})

test('it ends when it is told to, and when the folder goes away', async () => {
  const { changes } = await watched([])
  const next = changes.next()
  controller.abort()
  expect(await next).toEqual({ done: true, value: undefined })
  const gone = await watched(['a.md'])
  const failing = gone.changes.next()
  rmSync(gone.root, { recursive: true })
  await expect(failing).rejects.toThrow(/The folder .* is gone/)
})

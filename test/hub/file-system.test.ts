/** File systems that do not do what the layout wants: no symbolic links, no hard links either, no room, no right to write. */
import { lstat, readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, test, vi } from 'vitest'
import { findInCache } from '../../src/hub/cache.ts'
import { adapters, commitA, expectClaraError, newSetting, sha256 } from './server.ts'

const system = vi.hoisted(() => ({
  refused: new Map<string, string>(),
  /** Renaming to a path that ends so is refused. */
  refusedTarget: undefined as string | undefined,
  /** Blocks of 1,000 bytes that are free; undefined: what is really free. */
  freeBlocks: undefined as number | undefined,
}))

vi.mock('node:fs/promises', async (original) => {
  const real = await original<typeof import('node:fs/promises')>()
  const refusing =
    <A extends unknown[], R>(name: string, work: (...values: A) => Promise<R>) =>
    async (...values: A): Promise<R> => {
      const code = system.refused.get(name)
      if (code === undefined) return work(...values)
      throw Object.assign(new Error(`${code}: refused, ${name}`), { code, syscall: name })
    }
  return {
    ...real,
    symlink: refusing('symlink', real.symlink),
    link: refusing('link', real.link),
    mkdir: refusing('mkdir', real.mkdir),
    rename: refusing('rename', async (from: string, to: string) => {
      if (system.refusedTarget === undefined || !to.endsWith(system.refusedTarget)) return real.rename(from, to)
      throw Object.assign(new Error('EIO: refused'), { code: 'EIO', syscall: 'rename' })
    }),
    statfs: async (path: string) => ({
      ...(await real.statfs(path)),
      ...(system.freeBlocks === undefined ? {} : { bavail: system.freeBlocks, bsize: 1000 }),
    }),
  }
})

const checkpoint = { subfolder: 'compression-16' }

test.each([
  [['symlink'], 'EPERM', 2],
  [['symlink', 'link'], 'ENOSYS', 1],
])('without %j files appear all the same, and a second pull is content', async (refused, code, names) => {
  const { cacheFolder, pull, hub } = await newSetting()
  for (const name of refused) system.refused.set(name, code)
  try {
    const { folder } = await pull('org/clara', checkpoint)
    const shown = join(folder, 'adapters.pth')
    expect((await lstat(shown)).isFile()).toBe(true)
    expect(await readFile(shown)).toEqual(Buffer.from(adapters))
    expect((await stat(join(cacheFolder, 'models--org--clara/blobs', sha256(adapters)))).nlink).toBe(names)
    hub.seen.length = 0
    await pull('org/clara', checkpoint)
    expect(hub.seen.filter(({ path }) => path.includes('/resolve/'))).toEqual([])
    expect(await readFile(shown)).toEqual(Buffer.from(adapters))
  } finally {
    system.refused.clear()
  }
})

test('a disk without room for the files is found out before the first byte', async () => {
  const { pull, hub } = await newSetting()
  system.freeBlocks = 8
  try {
    // 5,000 + 3,000 bytes and two small files.
    await expectClaraError(
      pull('org/clara', checkpoint),
      /disk is too full/,
      /Expected 80\d\d bytes free.*Got 8000/,
      /HF_HUB_CACHE/,
    )
    expect(hub.seen.filter(({ path }) => path.includes('/resolve/'))).toEqual([])
    system.freeBlocks = 9
    await pull('org/clara', checkpoint)
    system.freeBlocks = 0
    // All there: no room is needed.
    expect((await pull('org/clara', checkpoint)).commit).toBe(commitA)
  } finally {
    system.freeBlocks = undefined
  }
})

test.each([
  ['mkdir', 'EACCES', /cannot be written.*EACCES.*HF_HUB_CACHE/],
  ['mkdir', 'EROFS', /cannot be written.*EROFS/],
  ['rename', 'ENOSPC', /disk is full/],
  ['rename', 'EDQUOT', /disk is full/],
])('a %s that fails with %s is explained', async (name, code, pattern) => {
  const { pull, cacheFolder } = await newSetting()
  system.refused.set(name, code)
  try {
    await expectClaraError(pull('org/clara', checkpoint), pattern)
  } finally {
    system.refused.clear()
  }
  await expect(stat(join(cacheFolder, 'models--org--clara/refs'))).rejects.toThrow(/ENOENT/)
  await pull('org/clara', checkpoint)
})

test.each(['tokenizer.json', 'adapters.pth', 'decoder_first_last_layers.pth', 'config.json'])(
  'a pull that ends before %s appears leaves no model that could be taken for whole',
  async (file) => {
    const { pull, environment } = await newSetting()
    system.refusedTarget = `compression-16/${file}`
    try {
      await expectClaraError(pull('org/clara', checkpoint), /cannot be written.*EIO/)
    } finally {
      system.refusedTarget = undefined
    }
    // The branch is noted last; without it the commit still leads here.
    expect(await findInCache('org/clara', { ...checkpoint, environment })).toBeUndefined()
    expect(await findInCache('org/clara', { ...checkpoint, environment, revision: commitA })).toBeUndefined()
    const { folder } = await pull('org/clara', checkpoint)
    expect(await findInCache('org/clara', { ...checkpoint, environment })).toBe(folder)
  },
)

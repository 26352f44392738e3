import { open, readdir, readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { expect, onTestFinished, test, vi } from 'vitest'
import { writeFileAtomic } from '../../src/checkpoint/atomic.ts'
import { expectClaraError, temporaryFolder, utf8 } from './support.ts'

/** Makes every write of this process fail as a full disk does, until the test ends. */
async function fillDisk(method: 'write' | 'sync'): Promise<void> {
  const handle = await open(import.meta.filename, 'r')
  const prototype = Object.getPrototypeOf(handle)
  await handle.close()
  const full = Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC' })
  const spy = vi.spyOn(prototype, method).mockRejectedValue(full)
  onTestFinished(() => spy.mockRestore())
}

test('text, bytes and pieces arrive whole, and nothing else stays in the folder', async () => {
  const folder = await temporaryFolder()
  await writeFileAtomic(join(folder, 'text'), 'grün')
  await writeFileAtomic(join(folder, 'bytes'), Uint8Array.of(1, 2, 3))
  await writeFileAtomic(
    join(folder, 'pieces'),
    (async function* () {
      yield utf8('one ')
      yield utf8('two')
    })(),
  )
  expect(await readFile(join(folder, 'text'), 'utf8')).toBe('grün')
  expect([...(await readFile(join(folder, 'bytes')))]).toEqual([1, 2, 3])
  expect(await readFile(join(folder, 'pieces'), 'utf8')).toBe('one two')
  expect((await readdir(folder)).sort()).toEqual(['bytes', 'pieces', 'text'])
})

test('while it is written, readers see the previous file', async () => {
  const folder = await temporaryFolder()
  const path = join(folder, 'file')
  await writeFile(path, 'old')
  await writeFileAtomic(
    path,
    (async function* () {
      yield utf8('new')
      expect(await readFile(path, 'utf8')).toBe('old')
    })(),
  )
  expect(await readFile(path, 'utf8')).toBe('new')
})

test.for(['write', 'sync'] as const)(
  'a full disk at %s: the error says so, the previous file is intact, no rest stays',
  async (method) => {
    const folder = await temporaryFolder()
    const path = join(folder, 'file')
    await writeFile(path, 'old')
    await fillDisk(method)
    await expectClaraError(writeFileAtomic(path, 'new'), /disk is full.*previous file.*intact/)
    vi.restoreAllMocks()
    expect(await readFile(path, 'utf8')).toBe('old')
    expect(await readdir(folder)).toEqual(['file'])
  },
)

test('a failing source passes its own error on and leaves nothing behind', async () => {
  const folder = await temporaryFolder()
  const failure = new Error('the source broke')
  const work = writeFileAtomic(
    join(folder, 'file'),
    (function* () {
      yield utf8('half')
      throw failure
    })(),
  )
  await expect(work).rejects.toBe(failure)
  expect(await readdir(folder)).toEqual([])
})

test('a missing folder is named', async () => {
  const folder = await temporaryFolder()
  await expectClaraError(writeFileAtomic(join(folder, 'absent', 'file'), 'x'), /absent.*folder does not exist/)
})

test('a folder in the file’s place stays, and the temporary file goes', async () => {
  const folder = await temporaryFolder()
  await writeFileAtomic(join(folder, 'other'), 'x')
  await expect(writeFileAtomic(folder, 'x')).rejects.toThrow()
  expect(await readdir(folder)).toEqual(['other'])
})

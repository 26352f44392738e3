import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { readTextFile } from '../../src/ingestion/text-file.ts'

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'clara-text-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function file(name: string, content: string | Uint8Array): string {
  const path = join(folder, name)
  writeFileSync(path, content)
  return path
}

test('reads UTF-8 and drops a byte-order mark', async () => {
  expect(await readTextFile(file('a.txt', '\ufeffBlåbær 👍\n'))).toBe('Blåbær 👍\n')
})

test('says what is wrong with a file', async () => {
  const huge = file('huge.txt', '')
  truncateSync(huge, 17 * 1024 * 1024)
  const cases: [string, RegExp][] = [
    [join(folder, 'none.txt'), /none\.txt" does not exist/],
    [join(file('b.txt', 'b'), 'c.txt'), /does not exist/],
    [folder, /is not a file.*a folder/],
    [file('empty.txt', ' \n'), /empty\.txt" is empty/],
    [huge, /is too large.*at most 16 MiB.*Got 17\.0 MiB/],
    [file('image.png', Uint8Array.of(0x89, 0x50, 0, 1)), /is not a text file.*UTF-8/],
    [file('latin1.txt', Uint8Array.of(0x42, 0xe5)), /is not a text file.*UTF-8/],
  ]
  for (const [path, message] of cases) {
    await expect(readTextFile(path)).rejects.toThrow(
      expect.objectContaining({ name: 'ClaraError', message: expect.stringMatching(message) }),
    )
  }
})

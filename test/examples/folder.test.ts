import { spawnSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'

const root = join(import.meta.dirname, '..', '..')
const program = join(root, 'examples', 'folder.ts')
let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'clara-folder-'))
  mkdirSync(join(folder, 'docs'))
  writeFileSync(join(folder, 'docs', 'oslo.md'), '# Oslo\n\nThe opera house of Oslo was designed by Snøhetta.\n')
  writeFileSync(join(folder, 'docs', 'rome.txt'), 'Rome is the capital of Italy.')
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** In a folder of its own, where its store is left. */
function run(question: string): string[] {
  const tsx = join(root, 'node_modules', 'tsx', 'dist', 'loader.mjs')
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', tsx, program, 'docs', question], {
    cwd: folder,
    encoding: 'utf8',
  })
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
  return stdout.trimEnd().split('\n')
}

test('the program of the README adds a folder, answers from it, and the second time compresses nothing', () => {
  const [added, answer, ...sources] = run('Who designed the opera house?')
  expect(added).toBe('2 passages compressed, 0 there already')
  expect(answer).not.toBe('')
  expect(sources.join('\n')).toMatch(/^-?\d\.\d{3} docs\/oslo\.md, character \d+$/m)
  expect(sources).toHaveLength(2)
  expect(run('What is the capital of Italy?')[0]).toBe('0 passages compressed, 2 there already')
})

test('the README shows this program', () => {
  const [, ...lines] = readFileSync(program, 'utf8').trimEnd().split('\n')
  const shown = lines.join('\n').replace("'../src/index.ts'", "'clara-ts'")
  expect(readFileSync(join(root, 'README.md'), 'utf8')).toContain(shown)
})

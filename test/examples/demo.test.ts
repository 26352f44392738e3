import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'

const root = fileURLToPath(new URL('../..', import.meta.url))
const command = ['--import', 'tsx', join(root, 'examples/demo.ts')]
const run = (...words: string[]) => spawnSync(process.execPath, [...command, ...words], { cwd: root, encoding: 'utf8' })

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'clara-demo-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function file(name: string, content: string | Uint8Array): string {
  const path = join(folder, name)
  writeFileSync(path, content)
  return path
}

const shape = {
  answer: expect.any(String),
  sources: expect.arrayContaining([expect.objectContaining({ id: expect.any(String), score: expect.any(Number) })]),
  promptTokens: { text: expect.any(Number), memory: expect.any(Number) },
  ms: {
    compress: expect.any(Number),
    retrieve: expect.any(Number),
    firstToken: expect.any(Number),
    total: expect.any(Number),
  },
  fullText: expect.objectContaining({ answer: expect.any(String) }),
}

test('on its own passages it prints one JSON object, and memory takes less than half the positions of text', () => {
  const { status, stdout, stderr } = run('--json')
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
  const { questions } = JSON.parse(stdout)
  expect(questions.length).toBeGreaterThanOrEqual(3)
  for (const asked of questions) {
    expect(asked).toMatchObject({ question: expect.any(String), ...shape })
    expect(asked.promptTokens.memory).toBeLessThan(asked.promptTokens.text / 2)
    const scores = asked.sources.map(({ score }: { score: number }) => score)
    expect(scores).toEqual([...scores].sort((one, other) => other - one))
  }
})

test("on the user's text it names the passages and prints no colours into a pipe", () => {
  const first = file('first.txt', 'The opera house stands in Oslo. Snøhetta designed it.')
  const second = file('second.txt', 'Bread is baked from flour and water.')
  const { status, stdout, stderr } = run('--question', 'Where is the opera house?', '--documents', first, second)
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
  expect(stdout).toContain('Where is the opera house?')
  expect(stdout).toContain('first.txt#0')
  expect(stdout).toContain('second.txt#0')
  expect(stdout).toMatch(/memory .*\n +\d+ positions, retrieve \d+ ms, first token \d+ ms, total \d+ ms\n/)
  expect(stdout).not.toContain('\u001b')
})

describe('what the user can get wrong is one line without a stack', () => {
  const question = ['--question', 'Where?', '--documents']
  test.each([
    ['a missing file', () => [...question, join(folder, 'none.txt')], /none\.txt" does not exist/],
    ['an empty file', () => [...question, file('empty.txt', '')], /empty\.txt" is empty/],
    [
      'a binary file',
      () => [...question, file('a.bin', Uint8Array.of(0, 1, 2))],
      /a\.bin" is binary: there is no text in it/,
    ],
    [
      'a huge file',
      () => {
        const path = file('huge.txt', '')
        truncateSync(path, 1024 ** 3)
        return [...question, path]
      },
      /huge\.txt" is too large.*Got 1024\.0 MiB/,
    ],
    [
      'documents without a question',
      () => ['--documents', file('a.txt', 'a')],
      /no question about the documents.*--question/,
    ],
    ['an unknown flag', () => ['--no-such-flag'], /--no-such-flag.*--help/],
    ['a topK of nothing', () => ['--top-k', '0'], /--top-k cannot be "0".*from 1/],
  ])('%s', (_, words, message) => {
    const { status, stdout, stderr } = run('--json', ...words())
    expect({ status, stdout }).toEqual({ status: 1, stdout: '' })
    expect(stderr).toMatch(message)
    expect(stderr.trim().split('\n')).toHaveLength(1)
  })

  test('--help explains and fits 80 columns', () => {
    const { status, stdout } = run('--help')
    expect(status).toBe(0)
    expect(stdout).toContain('--documents FILE')
    expect(Math.max(...stdout.split('\n').map(({ length }) => length))).toBeLessThanOrEqual(80)
  })
})

test('Ctrl-C ends it with 130', async () => {
  const child = spawn(process.execPath, command, { cwd: root })
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => {
    stderr += text
  })
  // the passages are listed before the model is loaded
  child.stdout.once('data', () => child.kill('SIGINT'))
  const status = await new Promise((resolve) => child.on('close', resolve))
  expect(status).toBe(130)
  expect(stderr).toBe('\nInterrupted.\n')
})

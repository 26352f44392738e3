import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { verbs } from '../../src/cli/verbs.ts'
import { fakeVerb, runClara } from './fakes.ts'

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'clara-ask-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function file(name: string, content: string): string {
  const path = join(folder, name)
  writeFileSync(path, content)
  return path
}

const ask = (...words: string[]) => runClara(['ask', ...words], fakeVerb(), { verbs })

test('clara ask answers from files and says from where', async () => {
  const oslo = file('oslo.txt', 'The opera house stands in Oslo.')
  const bread = file('bread.txt', 'Bread is baked from flour and water.')
  const { status, stdout, stderr } = await ask(
    'Where is the opera house?',
    oslo,
    bread,
    '--json',
    '--max-new-tokens',
    '3',
  )
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
  const { question, answer, sources, usage } = JSON.parse(stdout)
  expect(question).toBe('Where is the opera house?')
  expect(answer).toEqual(expect.any(String))
  expect(sources.map(({ id }: { id: string }) => id).sort()).toEqual([`${bread}#0`, `${oslo}#0`])
  expect(sources[0]).toMatchObject({ documentId: oslo, start: 0, end: 31, text: 'The opera house stands in Oslo.' })
  expect(usage.promptTokens.memory).toBeLessThan(usage.promptTokens.text)

  const shown = await ask('Where is the opera house?', oslo, '--max-new-tokens', '3')
  expect(shown).toMatchObject({ status: 0, stderr: '' })
  expect(shown.stdout).toMatch(/^.+\n\n.*oslo\.txt#0 \d+\.\d{3}\n {2}The opera house stands in Oslo\.\n\n\d+ positions/)
})

test('clara ask says what is wrong', async () => {
  expect(await ask()).toMatchObject({ status: 2, stdout: '' })
  const nowhere = await ask('Why?', '--store', join(folder, 'kb'))
  expect(nowhere).toMatchObject({ status: 1, stdout: '' })
  expect(nowhere.stderr).toMatch(/no store in .*kb"/)
  const missing = await ask('Why?', join(folder, 'none.txt'))
  expect(missing).toMatchObject({ status: 1, stdout: '' })
  expect(missing.stderr).toMatch(/none\.txt" does not exist/)
  const again = file('again.txt', 'a')
  expect((await ask('Why?', again, again)).stderr).toMatch(/again\.txt" is named twice/)
  expect((await ask('Why?', again, '--model', folder)).stderr).toMatch(/no CLaRa model/)
})

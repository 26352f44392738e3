import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest'
import { Clara } from '../../src/clara/clara.ts'
import { inspectModel } from '../../src/clara/inspect.ts'
import { embeddedModel } from '../../src/clara/model.ts'
import { parseFilter } from '../../src/cli/filter.ts'
import { progressLine } from '../../src/cli/knowledge.ts'
import { verbs } from '../../src/cli/verbs.ts'
import { fakeModel } from '../knowledge/fake-model.ts'
import { fakeVerb, runClara } from './fakes.ts'

let folder = ''
let environment: Record<string, string> = {}
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'clara-verbs-'))
  environment = { CLARA_STORE: at('kb') }
  mkdirSync(at('docs'))
  write('docs/oslo.md', '# Oslo\n\nThe capital of Norway.\n')
  write('docs/rome.txt', 'Rome is the capital of Italy.')
  useModel('fake')
})
afterEach(() => {
  vi.restoreAllMocks()
  rmSync(folder, { recursive: true, force: true })
})

const at = (path: string) => join(folder, path)
const write = (path: string, text: string) => writeFileSync(at(path), text)

/** What `Clara.load` gives from now on. */
function useModel(fingerprint: string, maxTokens?: number) {
  const model = fakeModel({ fingerprint, ...(maxTokens === undefined ? {} : { maxTokens }) })
  const load = vi.fn(async () => Object.assign(model, { close: async () => {}, [Symbol.asyncDispose]: async () => {} }))
  vi.spyOn(Clara, 'load').mockImplementation(load as unknown as typeof Clara.load)
  return model
}

const run = (...words: string[]) => runClara(words, fakeVerb(), { verbs, environment })
async function json(...words: string[]) {
  const { status, stdout, stderr } = await run(...words, '--json')
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
  return JSON.parse(stdout)
}

describe('from a folder to an answer', () => {
  test('add, ask, search, stats, sync, remove', async () => {
    const added = await run('add', at('docs'))
    expect(added).toMatchObject({ status: 0, stderr: '' })
    expect(added.stdout).toMatch(/^2 files read, 0 unchanged: 2 documents, 2 passages compressed, 0 there already, in /)
    expect(await json('add', at('docs'))).toMatchObject({ compressed: 0, files: { read: 0, unchanged: 2 } })

    const answer = await json('ask', 'What is the capital of Italy?')
    expect(answer).toMatchObject({ question: 'What is the capital of Italy?', answer: 'one two three' })
    expect(answer.sources[0]).toMatchObject({
      id: `${at('docs/rome.txt')}#0`,
      document: at('docs/rome.txt'),
      chunk: 0,
      offset: 0,
      score: expect.any(Number),
      text: 'Rome is the capital of Italy.',
    })
    const shown = await run('ask', 'What is the capital of Italy?', '--top-k', '1', '--expand', 'auto')
    expect(shown.stdout).toMatch(
      /^ one two three\n\n.*rome\.txt#0 \d\.\d{3}\n {2}Rome is .*\n\n\d+ positions .*1 read as text/,
    )

    const { sources } = await json('search', 'capital', '--document', at('docs/oslo.md'))
    expect(sources).toMatchObject([{ document: at('docs/oslo.md'), headings: ['Oslo'], metadata: { title: 'Oslo' } }])
    expect(await json('stats')).toMatchObject({ documents: 2, chunks: 2, bytes: expect.any(Number), driver: 'lancedb' })
    expect((await run('stats')).stdout).toMatch(/documents {3}2\nfiles {7}2\npassages {4}2\n/)

    rmSync(at('docs/rome.txt'))
    expect(await json('sync', at('docs'))).toMatchObject({ removed: { documents: 1, chunks: 1 } })
    expect(await json('remove', at('docs'))).toMatchObject({ documents: 1, chunks: 1 })
    expect(await run('remove', 'none')).toMatchObject({ status: 3, stderr: 'No such document is stored.\n' })
    expect((await run('ask', 'What?')).stderr).toMatch(/is empty\. Add documents first/)
  })

  test('a folder in which nothing changed is added and synced without loading the model', async () => {
    const { fingerprint = '' } = await inspectModel(embeddedModel())
    // its passages are cut as those of the model whose files are looked at
    useModel(fingerprint, 128)
    const loaded = vi.mocked(Clara.load)
    expect(await json('add', at('docs'))).toMatchObject({ compressed: 2 })
    expect(loaded).toHaveBeenCalledTimes(1)
    expect(await json('add', at('docs'))).toMatchObject({ compressed: 0, unchanged: 2, files: { unchanged: 2 } })
    expect(await json('sync', at('docs'))).toMatchObject({ removed: { documents: 0 }, files: { unchanged: 2 } })
    expect(loaded).toHaveBeenCalledTimes(1)
    write('docs/rome.txt', 'Rome is a town.')
    expect(await json('sync', at('docs'))).toMatchObject({ compressed: 1 })
    expect(loaded).toHaveBeenCalledTimes(2)
  })

  test('verify, export and import', async () => {
    await run('add', at('docs'))
    expect(await json('verify')).toMatchObject({ rows: 2, damaged: [] })
    expect(await json('export', at('kb.parquet'))).toMatchObject({ chunks: 2 })
    expect(await json('import', at('kb.parquet'), '--store', at('copy'))).toMatchObject({ chunks: 2 })
    environment = { CLARA_STORE: at('copy') }
    expect(await json('stats')).toMatchObject({ documents: 2, chunks: 2 })
    const { sources } = await json('search', 'capital of Italy', '--top-k', '1')
    expect(sources).toMatchObject([{ document: at('docs/rome.txt') }])
  })

  test('files that are named with the question are not kept', async () => {
    expect(await json('ask', 'Which capital?', at('docs'))).toMatchObject({ answer: 'one two three' })
    expect(existsSync(at('kb'))).toBe(false)
  })
})

test('chat: a line is a question, with those before in mind', async () => {
  await run('add', at('docs'))
  const model = useModel('fake')
  vi.spyOn(process, 'stdin', 'get').mockReturnValue(
    Readable.from(['Rome?\n', 'Is it in Italy?\n\nnever read\n']) as unknown as typeof process.stdin,
  )
  const { answers } = await json('chat', '--top-k', '1')
  expect(answers).toMatchObject([
    { question: 'Rome?', answer: 'one two three', sources: [{ document: at('docs/rome.txt') }] },
    { question: 'Is it in Italy?' },
  ])
  expect(model.asked.question).toBe('Rome?\none two three\nIs it in Italy?')
})

test('sync --watch follows what changes, until it is interrupted', async () => {
  const stop = new AbortController()
  const watching = runClara(['sync', at('docs'), '--watch'], fakeVerb(), { verbs, environment, signal: stop.signal })
  const documents = async () => JSON.parse((await run('stats', '--json')).stdout || '{}').documents
  await expect.poll(documents, { timeout: 20_000, interval: 200 }).toBe(2)
  write('docs/paris.txt', 'Paris is the capital of France.')
  rmSync(at('docs/oslo.md'))
  write('docs/bern.txt', 'Bern is the capital of Switzerland.')
  await expect.poll(documents, { timeout: 20_000, interval: 200 }).toBe(3)
  stop.abort(new Error('enough'))
  expect((await watching).status).toBe(130)
}, 60_000)

describe('what goes wrong', () => {
  test('no store, another model, no such file, nothing relevant', async () => {
    const without = await run('ask', 'What?')
    expect(without).toMatchObject({ status: 1, stdout: '' })
    expect(without.stderr).toMatch(/There is no store in .*kb"\. Add documents first \(clara add FILE …\)/)
    const partly = await run('add', at('none.txt'), at('docs'))
    expect(partly.status).toBe(1)
    expect(partly.stderr).toMatch(/none\.txt" does not exist/)
    expect(partly.stdout).toMatch(/2 files read.*1 that could not be read: 2 documents/)

    const nothing = await run('ask', 'chimpanzees', '--min-score', '0.9')
    expect(nothing).toMatchObject({ status: 3, stdout: 'Nothing relevant was found.\n\n' })
    expect(JSON.parse((await run('search', 'chimpanzees', '--mode', 'text', '--json')).stdout).sources).toEqual([])

    useModel('other')
    const other = await run('search', 'capital')
    expect(other).toMatchObject({ status: 1, stdout: '' })
    expect(other.stderr).toMatch(/kb" was written by another model.*"fake".*"other"/)
    expect((await run('search', 'capital', '--filter', 'year')).stderr).toMatch(/filter "year" is none.*KEY=VALUE/)
    expect((await run('search', 'capital', '--expand', 'some')).status).toBe(2)
  })

  test('an interruption keeps what was stored, and says so', async () => {
    const stop = new AbortController()
    stop.abort(new Error('enough'))
    const result = await runClara(['add', at('docs')], fakeVerb(), { verbs, environment, signal: stop.signal })
    expect(result.status).toBe(130)
    expect(result.stderr).toMatch(/What was stored is kept.*\nInterrupted\.\n/)
    expect(await json('add', at('docs'))).toMatchObject({ compressed: 2 })
  })

  test.skipIf(process.getuid?.() === 0)('a read-only store answers, and says why nothing can be added', async () => {
    await run('add', at('docs/oslo.md'))
    chmodSync(at('kb'), 0o555)
    try {
      expect((await run('search', 'capital')).status).toBe(0)
      expect((await run('add', at('docs'))).stderr).toMatch(/kb" .*(read-only|may not)/)
    } finally {
      chmodSync(at('kb'), 0o755)
    }
  })
})

describe('settings', () => {
  test('flags come before the environment, this before the file', async () => {
    write('clara.config.json', JSON.stringify({ store: './kb', topK: 1, expand: 1, include: ['*.txt'] }))
    environment = { CLARA_CONFIG: at('clara.config.json') }
    expect(await json('add', at('docs'))).toMatchObject({ store: at('kb'), documents: 1 })
    await run('add', at('docs/oslo.md'))
    const found = async (...words: string[]) => (await json('search', 'capital', ...words)).sources.length
    expect(await found()).toBe(1)
    expect((await json('ask', 'capital')).usage.expanded).toBe(1)
    environment.CLARA_TOP_K = '2'
    expect(await found()).toBe(2)
    expect(await found('--top-k', '1')).toBe(1)
  })

  test('a mistake names the file or the variable; help comes all the same', async () => {
    environment = { CLARA_CONFIG: at('clara.config.json') }
    const says = async (text: string) => {
      write('clara.config.json', text)
      const { status, stderr } = await run('stats')
      expect(status).toBe(2)
      return stderr
    }
    expect(await says('{')).toMatch(/clara\.config\.json is not JSON/)
    expect(await says('[]')).toMatch(/holds no settings/)
    expect(await says('{"shop":"a"}')).toMatch(/no setting "shop".*store, model/)
    expect(await says('{"topK":0}')).toMatch(/clara\.config\.json: topK: .*Got 0/)
    expect((await run('stats', '--help')).status).toBe(0)
    environment = { CLARA_TOP_K: 'many' }
    expect((await run('stats')).stderr).toMatch(/CLARA_TOP_K: /)
    environment = { CLARA_CONFIG: at('none.json') }
    expect((await run('stats')).stderr).toMatch(/none\.json" cannot be read.*CLARA_CONFIG/)
  })
})

test('filters: numbers are numbers, the rest is text', () => {
  expect(parseFilter([], [])).toBeUndefined()
  expect(parseFilter(['year>=2020'], [])).toEqual({ metadata: { year: { gte: 2020 } } })
  expect(parseFilter(['a=b=c', 'open!=true'], ['x'])).toEqual({
    and: [{ metadata: { a: 'b=c' } }, { not: { metadata: { open: true } } }, { documentIds: ['x'] }],
  })
  expect(parseFilter(['title="2001"'], [])).toEqual({ metadata: { title: '2001' } })
})

test('progress: share, amount, rate and the time still needed', () => {
  const progress = { done: 50, unchanged: 0, total: 60, files: 3, bytes: 500 }
  // 60 passages in 500 of 1,000 bytes: 120 in all, 70 of them still to come at 10 a second
  expect(progressLine(progress, 1000, 10)).toBe('[████████············] 41 %  50 passages of 3 files  10.0/s  7 s left')
  expect(progressLine(progress, undefined, undefined)).toBe('50 passages of 3 files')
})

test('completion knows every verb and its flags', async () => {
  for (const shell of ['bash', 'zsh', 'fish']) {
    const { status, stdout } = await run('completion', shell)
    expect(status).toBe(0)
    for (const verb of Object.keys(verbs)) expect(stdout).toContain(verb)
    expect(stdout).toContain('min-score')
    expect(stdout).toContain('no-ignore-files')
  }
})

test('doctor names what is wrong and how to mend it', async () => {
  await run('add', at('docs'))
  const { status, stdout } = await run('doctor', '--model', at('none'), '--json')
  expect(status).toBe(1)
  const { sound, checks } = JSON.parse(stdout)
  expect(sound).toBe(false)
  const states = Object.fromEntries(checks.map(({ name, state }: { name: string; state: string }) => [name, state]))
  expect(states).toMatchObject({ node: 'ok', runtime: 'ok', model: 'failed', store: 'ok' })
  expect(checks.find(({ name }: { name: string }) => name === 'model')).toMatchObject({
    text: expect.stringMatching(/does not exist/),
    hint: 'Check the path.',
  })
})

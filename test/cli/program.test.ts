import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { flagsOf } from '../../src/cli/flags.ts'
import { cliReference } from '../../src/cli/reference.ts'
import { verbs } from '../../src/cli/verbs.ts'
import { importsOf } from '../house/imports.ts'
import { fakeVerb, tableOf } from './fakes.ts'

const root = fileURLToPath(new URL('../..', import.meta.url))
const main = join(root, 'src/cli/main.ts')

/** Every module that Node loads with this file: its imports that are neither types nor dynamic, and theirs. */
function loadedWith(file: string, seen = new Set<string>()): Set<string> {
  if (seen.has(file)) return seen
  seen.add(file)
  const source = readFileSync(file, 'utf8')
  for (const match of source.matchAll(/^(?:import|export)\s+(?!type\b)(?:[^'"]*?\sfrom\s+)?['"]([^'"]+)['"]/gm)) {
    const specifier = match[1] ?? ''
    if (specifier.startsWith('.')) loadedWith(resolve(dirname(file), specifier), seen)
    else seen.add(specifier)
  }
  return seen
}

describe('the program', () => {
  test('loads no package and no other room before a verb is called', () => {
    const loaded = [...loadedWith(main)].map((name) => name.replace(root, ''))
    expect(loaded).toContain('src/cli/verbs.ts')
    const heavy = loaded.filter((name) => !/^(node:|src\/cli\/|src\/errors\.ts$)/.test(name))
    expect(heavy).toEqual([])
    // Guards the pattern above against an import that it would not see.
    for (const file of loaded.filter((name) => name.startsWith('src/'))) {
      const runtime = importsOf(file, readFileSync(join(root, file), 'utf8')).filter((found) => !found.typeOnly)
      for (const { specifier } of runtime) expect(specifier).toMatch(/^(node:|\.)/)
    }
  })

  const run = (...words: string[]) =>
    spawnSync(process.execPath, ['--import', 'tsx', main, ...words], { cwd: root, encoding: 'utf8' })

  test('prints help and version, and refuses an unknown verb with status 2', () => {
    const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
    expect(run('--version')).toMatchObject({ status: 0, stdout: `${version}\n`, stderr: '' })
    const unknown = run('no-such-verb')
    expect(unknown).toMatchObject({ status: 2, stdout: '' })
    expect(unknown.stderr).toMatch(/^clara: clara has no verb "no-such-verb"\. .*\n$/)
  })
})

describe('a signal', () => {
  let folder = ''
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'clara-cli-'))
  })
  afterAll(() => rmSync(folder, { recursive: true, force: true }))

  /** Starts a program that runs one verb as `main.ts` would, and interrupts it when it says that it is ready. */
  function interrupt(body: string, signals: number): Promise<{ status: number | null; stdout: string }> {
    const script = join(folder, `verb-${signals}.mts`)
    const from = (path: string) => JSON.stringify(pathToFileURL(join(root, path)).href)
    writeFileSync(
      script,
      `import { runProgram } from ${from('src/cli/program.ts')}
      const options = { shape: {}, safeParse: (data) => ({ success: true, data }) }
      const verb = { summary: 's', options, positionals: [], async run(values, context) { ${body} } }
      await runProgram({ wait: { summary: 's', load: async () => verb } }, ['wait'])`,
    )
    return new Promise((settle, fail) => {
      const child = spawn(process.execPath, ['--import', 'tsx', script], { cwd: root })
      let stdout = ''
      let sent = 0
      child.stdout.setEncoding('utf8').on('data', (text: string) => {
        stdout += text
        // One signal for each line, so that the second comes after the first was handled.
        for (; sent < Math.min(signals, stdout.split('\n').length - 1); sent++) child.kill('SIGINT')
      })
      child.on('error', fail)
      child.on('exit', (status) => settle({ status, stdout }))
    })
  }

  test('lets the verb save its work, then ends with status 130', async () => {
    const body = `
      const keepAlive = setInterval(() => undefined, 1000)
      const stopped = new Promise((done) => context.signal.addEventListener('abort', done))
      context.print('ready')
      await stopped
      clearInterval(keepAlive)
      context.write('saved')`
    expect(await interrupt(body, 1)).toEqual({ status: 130, stdout: 'ready\nsaved' })
  })

  test('a second one ends a verb that does not stop', async () => {
    const body = `
      setInterval(() => undefined, 1000)
      context.signal.addEventListener('abort', () => context.print('still busy'))
      context.print('ready')
      await new Promise(() => undefined)`
    expect(await interrupt(body, 2)).toEqual({ status: 130, stdout: 'ready\nstill busy\n' })
  })
})

describe('the reference', () => {
  test('docs/cli.md is current; `npx tsx scripts/write-cli-reference.ts` writes it', async () => {
    expect(readFileSync(join(root, 'docs/cli.md'), 'utf8')).toBe(await cliReference(verbs))
  })

  test('has a section for each verb with its flags', async () => {
    const { find } = tableOf(fakeVerb())
    if (find === undefined) throw new Error('the fake table has no find')
    const text = await cliReference({ find })
    expect(text).toMatch(/## clara find\n\n```text\nFind passages for a question\n/)
    expect(text).toContain('--top-k NUMBER            How many passages to read (default 5)')
  })
})

describe('the table of verbs', () => {
  test('says of each verb what its module says, and each module is well formed', async () => {
    for (const [name, entry] of Object.entries(verbs)) {
      const verb = await entry.load()
      expect(verb.summary, name).toBe(entry.summary)
      const keys = flagsOf(verb).map((flag) => flag.key)
      for (const key of verb.positionals) expect(keys, name).toContain(key)
      expect(readFileSync(join(root, `src/cli/${name}.ts`), 'utf8')).not.toBe('')
    }
  })
})

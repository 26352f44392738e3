import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { formatBytes, formatDuration, transferLine, transferMeter } from '../../src/cli/transfer.ts'
import { verbs } from '../../src/cli/verbs.ts'
import { checkpointRepository, commitA, commitB, newSetting, type Setting } from '../hub/server.ts'
import { fakeVerb, runClara } from './fakes.ts'

let setting: Setting
beforeEach(async () => {
  setting = await newSetting()
  for (const [name, value] of Object.entries(setting.environment)) vi.stubEnv(name, value)
  for (const name of ['HF_HUB_CACHE', 'HUGGINGFACE_HUB_CACHE', 'HF_TOKEN', 'HF_HUB_OFFLINE'])
    vi.stubEnv(name, undefined)
})
afterEach(() => {
  vi.unstubAllEnvs()
})

const pull = (words: string[], changes = {}) => runClara(['pull', ...words], fakeVerb(), { verbs, ...changes })
const checkpoint = ['org/clara', '--subfolder', 'compression-16']
const folderOf = (name: string, commit: string) =>
  join(setting.cacheFolder, `models--org--${name}`, 'snapshots', commit)

test('clara pull prints the folder, and how to get the base model', async () => {
  const { status, stdout, stderr } = await pull(checkpoint)
  expect(status).toBe(0)
  expect(stdout).toBe(
    [
      'org/clara: 4 files, 8.0 kB, 8.0 kB of them fetched; hashes verified.',
      `  ${folderOf('clara', commitA)}/compression-16`,
      'It needs its base model too: clara pull org/base (or --with-base next time).',
      '',
    ].join('\n'),
  )
  expect(stderr.trim().split('\n').sort()).toEqual(
    ['adapters.pth', 'config.json', 'decoder_first_last_layers.pth', 'tokenizer.json'].map(
      (file) => `compression-16/${file} is whole`,
    ),
  )
})

test('with the base model there already, it says where; a second pull fetches nothing', async () => {
  await pull(['org/base'])
  await pull(checkpoint)
  const { stdout } = await pull(checkpoint)
  expect(stdout).toContain('4 files, 8.0 kB, all there already; hashes verified.')
  expect(stdout).toContain(`Its base model is in the cache: ${folderOf('base', commitB)}\n`)
})

test('--with-base fetches both; --json reports both', async () => {
  const { status, stdout } = await pull([...checkpoint, '--with-base', '--json'])
  expect(status).toBe(0)
  expect(JSON.parse(stdout)).toMatchObject({
    name: 'org/clara',
    commit: commitA,
    kind: 'checkpoint',
    folder: `${folderOf('clara', commitA)}/compression-16`,
    base: { name: 'org/base', commit: commitB, kind: 'model', folder: folderOf('base', commitB) },
  })
  expect(await readFile(join(folderOf('base', commitB), 'config.json'), 'utf8')).toContain('mistral')
})

test('a checkpoint that names its base by an unknown path needs --base', async () => {
  setting.hub.repositories.set('org/clara', checkpointRepository('/mnt/data/unknown-model'))
  const refused = await pull([...checkpoint, '--with-base'])
  expect(refused.status).toBe(1)
  expect(refused.stderr).toMatch(/does not say where .* base .*"\/mnt\/data\/unknown-model".*Name it with --base/)
  const { stdout } = await pull(checkpoint)
  expect(stdout).toContain('It needs its base model too, "/mnt/data/unknown-model"')
  const named = await pull([...checkpoint, '--base', 'org/base'])
  expect(named.status).toBe(0)
  expect(named.stdout).toContain(folderOf('base', commitB))
})

test('a checkpoint that names its base by the path of the machine that trained it points to the hub', async () => {
  setting.hub.repositories.set('org/clara', checkpointRepository('/mnt/data/Mistral-7B-Instruct-v0.2'))
  const { stdout } = await pull(checkpoint)
  expect(stdout).toContain('clara pull mistralai/Mistral-7B-Instruct-v0.2')
})

test('what goes wrong is one line and status 1; wrong flags are status 2', async () => {
  const missing = await pull(['org/none'])
  expect(missing).toMatchObject({ status: 1, stdout: '' })
  expect(missing.stderr).toMatch(/^clara: The hub does not show org\/none: .*\n$/)
  expect(await pull(['org/clara', '--subfolders', 'x'])).toMatchObject({ status: 2 })
  expect(await pull([])).toMatchObject({ status: 2 })
})

test('on a terminal a bar is shown and cleared; control characters of the hub do not reach it', async () => {
  const { stderr, status } = await pull(checkpoint, { terminal: true })
  expect(status).toBe(0)
  expect(stderr).toContain('asking the hub for org/clara')
  expect(stderr).toMatch(/\[█*·*\] \d+ % {2}\S+ \w+ of 8\.0 kB/)
  expect(stderr.endsWith('\r\u001b[2K')).toBe(true)
  expect(stderr).not.toContain('is whole')
})

test('an interruption says that the same command goes on', async () => {
  const interrupt = new AbortController()
  setting.hub.misbehave = ({ server }) => {
    if (server !== 'files') return undefined
    setTimeout(() => interrupt.abort(), 20)
    return { stallAfter: 100 }
  }
  const { status, stderr } = await pull(checkpoint, { signal: interrupt.signal })
  expect(status).toBe(130)
  expect(stderr).toMatch(/the same command goes on from there\.\nInterrupted\.\n$/)
})

test.each([
  [0, '0 B'],
  [999, '999 B'],
  [1000, '1.0 kB'],
  [99_949, '99.9 kB'],
  [99_951, '100 kB'],
  [999_600, '1.0 MB'],
  [14_483_498_488, '14.5 GB'],
  [5e15, '5000 TB'],
])('%d bytes are %s', (bytes, text) => expect(formatBytes(bytes)).toBe(text))

test.each([
  [0.2, '1 s'],
  [89, '89 s'],
  [90, '2 min'],
  [3569, '59 min'],
  [3570, '1 h 00 min'],
  [14_700, '4 h 05 min'],
])('%d seconds are %s', (seconds, text) => expect(formatDuration(seconds)).toBe(text))

test('the line tells share, amount, rate and the time that the rest takes at that rate', () => {
  expect(transferLine(250e6, 1e9, 5e6)).toBe('[█████···············] 25 %  250 MB of 1.0 GB  5.0 MB/s  3 min left')
  expect(transferLine(0, 0, undefined)).toBe('[████████████████████] 100 %  0 B of 0 B')
  expect(transferLine(999, 1000, 0)).toBe('[███████████████████·] 99 %  999 B of 1.0 kB')
})

test('the rate is that of the last ten seconds, and what was there before is no speed', () => {
  let clock = 0
  const meter = transferMeter(() => clock)
  expect(meter.rate()).toBeUndefined()
  // 40 s at 1,000 a second, then 10 s at 3,000 a second.
  for (let second = 0, done = 500_000; second <= 50; second++, done += second > 40 ? 3000 : 1000) {
    clock = second * 1000
    meter.at(done)
  }
  expect(meter.rate()).toBeCloseTo(3000)
  // Bytes that are thrown away are no negative speed.
  meter.at(0)
  expect(meter.rate()).toBeUndefined()
  clock += 2000
  meter.at(400)
  expect(meter.rate()).toBe(200)
  meter.rest()
  expect(meter.rate()).toBeUndefined()
})

test('a transfer slower than the window has a rate too', () => {
  let clock = 0
  const meter = transferMeter(() => clock)
  meter.at(0)
  clock = 60_000
  meter.at(600)
  expect(meter.rate()).toBe(10)
})

import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { checkpointFolder } from '../../src/training/checkpoint.ts'
import { checkConfig, type TrainingConfig, trainingConfigSchema } from '../../src/training/config.ts'
import { readDataFingerprints, readSessions, recordRun } from '../../src/training/run-folder.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'clara-run-folder-'))
  await writeFile(join(folder, 'train.jsonl'), 'abc')
  await writeFile(join(folder, 'dev.jsonl'), 'dev')
})
afterEach(() => rm(folder, { recursive: true, force: true }))

const settings = (): TrainingConfig =>
  checkConfig(
    {
      output: join(folder, 'run'),
      steps: 5,
      data: [
        { file: join(folder, 'train.jsonl'), task: 'answer' },
        { file: join(folder, 'train.jsonl'), task: 'auto-encoding', without: [join(folder, 'dev.jsonl')] },
      ],
      evaluation: { data: [{ file: join(folder, 'dev.jsonl'), task: 'answer' }] },
    },
    trainingConfigSchema({}),
    'the test settings',
  )
const run = () => join(folder, 'run')

test('a run folder tells settings, environment, and the content of every data file once', async () => {
  await recordRun({ ...settings(), threads: 3 }, false)
  expect(JSON.parse(await readFile(join(run(), 'config.json'), 'utf8'))).toMatchObject({ steps: 5, threads: 3 })
  // the standard's own example for three letters
  expect(await readDataFingerprints(run())).toEqual([
    {
      file: join(folder, 'train.jsonl'),
      bytes: 3,
      sha256: 'ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad',
    },
    { file: join(folder, 'dev.jsonl'), bytes: 3, sha256: expect.stringMatching(/^[0-9a-f]{64}$/) },
  ])
  const [session] = await readSessions(run())
  expect(session).toMatchObject({
    node: process.version,
    runtime: expect.stringMatching(/^\d+\.\d+/),
    threads: 3,
    step: 0,
  })
  expect(session?.cpu.cores).toBeGreaterThan(0)
})

test('a resumed run adds its session and refuses data that has changed, by name', async () => {
  await recordRun(settings(), false)
  await mkdir(checkpointFolder(run(), 4), { recursive: true })
  await recordRun(settings(), true)
  expect((await readSessions(run())).map(({ step }) => step)).toEqual([0, 4])
  await writeFile(join(folder, 'dev.jsonl'), 'Dev')
  await expect(recordRun(settings(), true)).rejects.toThrow(/data has changed since .*: [^,]*dev\.jsonl\./)
  await writeFile(join(folder, 'dev.jsonl'), 'dev')
  await recordRun(settings(), true)
})

test('a run from before there were records goes on, and is recorded from then on', async () => {
  await mkdir(checkpointFolder(run(), 4), { recursive: true })
  await recordRun(settings(), true)
  expect(await readDataFingerprints(run())).toHaveLength(2)
  await writeFile(join(folder, 'train.jsonl'), 'abcd')
  await expect(recordRun(settings(), true)).rejects.toThrow(/train\.jsonl/)
})

test('the record of another run in the same folder stays as it is', async () => {
  await recordRun(settings(), false)
  await mkdir(checkpointFolder(run(), 4), { recursive: true })
  const other = { ...settings(), steps: 9 }
  await recordRun(other, false)
  expect(JSON.parse(await readFile(join(run(), 'config.json'), 'utf8')).steps).toBe(5)
})

test('a damaged record is told, and a file that cannot be read named', async () => {
  await recordRun(settings(), false)
  await writeFile(join(run(), 'data.json'), '{"files": [{"file": 5}]}')
  await expect(recordRun(settings(), true)).rejects.toThrow(/data\.json is damaged/)
  await rm(join(folder, 'train.jsonl'))
  await expect(recordRun(settings(), false)).rejects.toThrow(/train\.jsonl: the file cannot be read \(ENOENT\)/)
})

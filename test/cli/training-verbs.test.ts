import { readFile, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { verbs } from '../../src/cli/verbs.ts'
import { checkpointSteps, readLastCheckpoint } from '../../src/training/checkpoint.ts'
import { type TinyData, tinyData } from '../training/stages/tiny-run.ts'
import { fakeVerb, runClara } from './fakes.ts'

let data: TinyData
beforeAll(async () => {
  data = await tinyData()
})
afterAll(() => data[Symbol.asyncDispose]())

const clara = (...words: string[]) => runClara(words, fakeVerb(), { verbs })
async function report(...words: string[]) {
  const { status, stdout, stderr } = await clara(...words, '--json')
  expect({ words, status, stderr }).toEqual({ words, status: 0, stderr: '' })
  return JSON.parse(stdout)
}

describe('clara data check', () => {
  test('prints what is in a file and what is wrong with it, for people and for programs', async () => {
    const file = join(data.folder, 'passages.jsonl')
    const words = ['data', 'check', file, '--doc-max-length', '8', '--against', join(data.folder, 'pools.jsonl')]
    const { status, stdout } = await clara(...words)
    expect(status).toBe(0)
    expect(stdout).toContain(`${file}: 6 records (6 passage)`)
    expect(stdout).toMatch(/questions {2}12, 12 of them with supporting documents marked/)
    expect(stdout).toMatch(/shares with .*pools\.jsonl: 6 texts \(6 of its supporting ones\), 6 questions/)
    expect(stdout).toMatch(
      /6 records with a question or a supporting text of the files to keep apart from\n {4}line 1: /,
    )
    expect(stdout).toContain('question  When was Oslo founded?')
    const { files } = await report(...words)
    expect(files).toMatchObject([{ file, records: 6, truncation: { docMaxLength: 8 }, overlaps: [{ positives: 6 }] }])
    expect(files[0].truncation.documents).toBeGreaterThan(0)
  })

  test('ends with status 1 for a file that training would refuse, after telling why', async () => {
    const file = await data.write('bad.jsonl', '{"docs": ["A \\u001b[2J"], "question": "Q?", "answer": ""}\n{"text\n')
    const { status, stdout, stderr } = await clara('data', 'check', file)
    expect(status).toBe(1)
    expect(stdout).toMatch(/2 lines that are no record\n {4}line 1: "answer" is empty\n {4}line 2: .*not JSON/)
    expect(stderr).toContain(`Training would refuse ${file}`)
    expect((await clara('data', 'check', join(data.folder, 'none.jsonl'))).stderr).toMatch(/none\.jsonl: .*ENOENT/)
  })
})

describe('clara train', () => {
  test('--dry-run plans a run and starts nothing; --set counts', async () => {
    const output = join(data.folder, 'dry')
    const config = await data.write('dry.json', JSON.stringify(data.settings({ output })))
    const { status, stdout } = await clara('train', config, '--dry-run', '--set', 'steps=7', '--set', 'data.0.weight=4')
    expect(status).toBe(0)
    expect(stdout).toContain(`stage1 in ${output}: 7 steps of 3 samples`)
    expect(stdout).toMatch(/parameters {2}[\d,]+ learn: encoder_adapter [\d,]+, /)
    expect(stdout).toMatch(/operations .* GFLOP a step\n {2}memory .* MiB.*\n {2}time {8}about /)
    const plan = await report('train', config, '--dry-run')
    expect(plan).toMatchObject({ steps: 10, threads: 1, memoryMode: 'fast' })
    expect(plan.seconds).toBeCloseTo(10 * plan.secondsPerStep, 9)
    expect(await checkpointSteps(output)).toEqual([])
    const wrong = await clara('train', config, '--set', 'optimizer.lr=1e-4')
    expect(wrong).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(/^clara: There is no setting 'optimizer\.lr'/),
    })
    expect((await clara('train', config, 'more')).stderr).toMatch(/clara train all FILE/)
  })

  test('all trains the stages of one YAML file, each from the one before, and clara runs shows them', async () => {
    const { data: files, stage: _, ...common } = data.settings({ output: join(data.folder, 'all'), steps: 2 })
    const stages = { stage1: {}, stage1_2: { steps: 1 } }
    // JSON is YAML
    const config = await data.write('all.yaml', JSON.stringify({ ...common, data: files, stages }))
    const planned = await report('train', 'all', config, '--dry-run')
    expect(planned.stages.map((plan: { stage: string; steps: number }) => [plan.stage, plan.steps])).toEqual([
      ['stage1', 2],
      ['stage1_2', 1],
    ])
    const { status, stdout, stderr } = await clara('train', 'all', config, '--json')
    expect({ status, stderr }).toEqual({ status: 0, stderr: 'Stage stage1 begins.\nStage stage1_2 begins.\n' })
    expect(JSON.parse(stdout)).toMatchObject({
      stages: [
        { stage: 'stage1', result: { reason: 'finished', step: 2 } },
        { stage: 'stage1_2', result: { reason: 'finished', step: 1 } },
      ],
    })
    const last = await readLastCheckpoint(join(data.folder, 'all/stage1_2'))
    expect(last?.state.config).toMatchObject({ initialise: join(data.folder, 'all/stage1') })
    const again = await clara('train', 'all', config, '--resume', '--json')
    expect(again.stderr).toBe('Stage stage1 has ended before.\nStage stage1_2 has ended before.\n')

    const html = join(data.folder, 'runs.html')
    const listed = await clara('runs', join(data.folder, 'all'), '--html', html, '--settings')
    expect(listed.stdout).toMatch(/all\/stage1 +stage1 +2\/2 +ended/)
    expect(listed.stdout).toMatch(/\nsteps\n {2}.*stage1: 2\n {2}.*stage1_2: 1\n/)
    expect(await readFile(html, 'utf8')).toMatch(/^<!doctype html>/)
    const { runs, differences } = await report('runs', join(data.folder, 'all'))
    expect(runs).toMatchObject([{ stage: 'stage1', ended: true, sessions: [{ step: 0 }] }, { stage: 'stage1_2' }])
    expect(runs[0]).not.toHaveProperty('metrics')
    expect(differences.map(({ name }: { name: string }) => name)).toEqual(['initialise', 'stage', 'steps'])
  })

  test('refuses to go on after a data file has changed, by its name', async () => {
    const output = join(data.folder, 'changed')
    const file = await data.write('own.jsonl', await readFile(join(data.folder, 'passages.jsonl'), 'utf8'))
    const files = [{ file, task: 'answer' }]
    const config = await data.write('changed.json', JSON.stringify(data.settings({ output, data: files, steps: 1 })))
    expect((await clara('train', config, '--json')).status).toBe(0)
    const text = await readFile(file, 'utf8')
    // of the same length, so that the order of batches would not tell
    await writeFile(file, text.replace('Oslo lies', 'Oslo sits'))
    const { status, stderr } = await clara('train', config, '--resume')
    expect(status).toBe(1)
    expect(stderr).toMatch(/The data has changed since the run in .*changed began: .*own\.jsonl\./)
  })
})

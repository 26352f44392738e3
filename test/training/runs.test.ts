import { appendFile, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseHTML } from 'linkedom'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { checkpointFolder } from '../../src/training/checkpoint.ts'
import { checkConfig, trainingConfigSchema } from '../../src/training/config.ts'
import { differences, findRuns } from '../../src/training/runs.ts'
import { runsPage } from '../../src/training/runs-page.ts'
import { train } from '../../src/training/trainer.ts'
import { linearModel, linearRows, rowBatches } from './linear-model.ts'

const hostile = '<script>alert("1")</script>&\'onload=x'
let folder: string

async function trainRun(name: string, changes: Record<string, unknown>, losses: readonly number[], metric = 'loss') {
  const runFolder = join(folder, name)
  const file = {
    output: runFolder,
    steps: 6,
    data: [{ file: hostile, task: 'answer' }],
    evaluation: { every: 2, metric },
  }
  const config = checkConfig({ ...file, ...changes }, trainingConfigSchema({}), name)
  let evaluation = 0
  await train({
    model: linearModel(),
    batches: rowBatches(linearRows(16), 4),
    config,
    runFolder,
    evaluate: async () => ({ [metric]: losses[evaluation++] ?? 0 }),
  })
}

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'clara-runs-'))
  await trainRun('a', {}, [4, 3, 1, 2])
  await trainRun('b/stage1', { learningRate: 0.01, lora: { rank: 4 } }, [4, 5, 6, 7], hostile)
  await trainRun('b/<i>x', { evaluation: { every: 1, patience: 2 } }, [4, 5, 6, 7])
  // a folder whose last checkpoint is damaged
  await mkdir(checkpointFolder(join(folder, 'c'), 3), { recursive: true })
  await writeFile(join(checkpointFolder(join(folder, 'c'), 3), 'state.json'), '{"step":')
  await mkdir(join(folder, 'empty'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

describe('the runs below a folder', () => {
  it('are found however deep, in order, and told with step, best and whether they have ended', async () => {
    const runs = await findRuns([folder])
    expect(runs.map((run) => run.folder)).toEqual(['a', 'b/<i>x', 'b/stage1', 'c'].map((name) => join(folder, name)))
    expect(runs[0]).toMatchObject({
      stage: 'stage1',
      step: 6,
      steps: 6,
      ended: true,
      samples: 24,
      best: { step: 4, metric: 'loss', value: 1 },
      evaluation: { loss: 2 },
      sessions: [],
    })
    expect(runs[0]?.trainingLoss).toBeGreaterThan(0)
    // patience of two: the evaluations after steps 1 (best), 2, 3
    expect(runs[1]).toMatchObject({ step: 3, steps: 6, ended: true, best: { step: 1, value: 5 } })
    expect(runs[3]?.problem).toMatch(/training state .*state\.json cannot be read/)
  })

  it('that are named twice count once, and differ in what was set otherwise', async () => {
    const [a, b] = [join(folder, 'a'), join(folder, 'b/stage1')]
    const runs = await findRuns([a, b, a])
    expect(runs).toHaveLength(2)
    expect(differences(runs)).toEqual([
      { name: 'evaluation.metric', values: ['loss', hostile] },
      { name: 'learningRate', values: ['0.0001', '0.01'] },
      { name: 'lora.alpha', values: ['32', '8'] },
      { name: 'lora.rank', values: ['16', '4'] },
    ])
  })

  it('are missed where there are none', async () => {
    await expect(findRuns([join(folder, 'empty')])).rejects.toThrow(/There is no run in .*empty/)
    await expect(findRuns([join(folder, 'nowhere')])).rejects.toThrow(/There is no folder .*nowhere/)
  })
})

describe('the page of runs', () => {
  it('draws a panel for each figure with a curve for each run that has it', async () => {
    const { document } = parseHTML(runsPage(await findRuns([folder])))
    const titles = [...document.querySelectorAll('svg > title')].map((title) => title.textContent)
    expect(titles).toEqual(['training loss, smoothed', 'evaluation: loss', `evaluation: ${hostile}`])
    const curves = [...document.querySelectorAll('svg')].map((svg) => svg.querySelectorAll('polyline').length)
    expect(curves).toEqual([3, 2, 1])
    // evaluations after steps 0, 2, 4 and 6 of one run, 0 to 3 of the other
    expect(document.querySelectorAll('svg')[1]?.querySelectorAll('circle').length).toBe(8)
    const rows = [...document.querySelectorAll('table')].map((table) => table.querySelectorAll('tbody tr').length)
    expect(rows[0]).toBe(4)
  })

  it('shows names as text and fetches and runs nothing', async () => {
    await appendFile(
      join(folder, 'a/metrics.jsonl'),
      `${JSON.stringify({ step: 6, kind: 'evaluation', values: { '</title><img src=x onerror=y>': 1 } })}\n`,
    )
    const page = runsPage(await findRuns([folder]))
    const { document } = parseHTML(page)
    const tags = new Set([...document.querySelectorAll('*')].map((element) => element.tagName.toLowerCase()))
    for (const tag of ['script', 'img', 'i', 'iframe', 'link', 'object', 'foreignobject'])
      expect(tags).not.toContain(tag)
    const attributes = [...document.querySelectorAll('*')].flatMap((element) => [...element.attributes])
    expect(attributes.filter(({ name }) => /^on|^src$|href$/i.test(name))).toEqual([])
    expect(page).not.toContain('<script')
    expect(page).toContain("default-src 'none'")
    expect(document.querySelector('td')?.textContent).toContain(join(folder, 'a'))
  })
})

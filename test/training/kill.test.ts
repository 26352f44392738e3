import { spawn } from 'node:child_process'
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { createRandom } from '../../src/data/random.ts'
import { checkpointSteps, readBestCheckpoint, readLastCheckpoint } from '../../src/training/checkpoint.ts'
import { readMetrics } from '../../src/training/metrics.ts'
import { readSessions } from '../../src/training/run-folder.ts'
import { steps, trainLinear } from './train-child.ts'

const program = join(import.meta.dirname, 'train-child.ts')

/** Trains in a process of its own and kills it `delay` milliseconds after it has done `after` steps. */
function trainAndKill(
  folder: string,
  dataFile: string,
  after: number,
  delay: number,
): Promise<{ out: string; killed: boolean }> {
  return new Promise((settle, fail) => {
    const words = ['--import', 'tsx', program, 'train-linear', folder, dataFile]
    const child = spawn(process.execPath, words, { stdio: ['ignore', 'pipe', 'inherit'] })
    let out = ''
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      const before = out.split('\n').length
      out += text
      if (before <= after && out.split('\n').length > after) setTimeout(() => child.kill('SIGKILL'), delay)
    })
    child.on('error', fail)
    child.on('close', (_, signal) => settle({ out, killed: signal === 'SIGKILL' }))
  })
}

test('a run that is killed at any moment leaves a checkpoint that opens, and goes on to the same end', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'clara-kill-'))
  try {
    const dataFile = join(folder, 'rows.jsonl')
    await writeFile(dataFile, 'rows')
    const run = join(folder, 'run')
    const random = createRandom(9)
    let kills = 0
    for (const after of [2, 9, 14]) {
      const { killed } = await trainAndKill(run, dataFile, after, random.int(30))
      if (killed) kills += 1
      const last = await readLastCheckpoint(run)
      expect(last?.state.step).toBeGreaterThan(0)
      // whichever was the best, it is still there
      if (last?.state.best) expect((await readBestCheckpoint(run))?.state.step).toBe(last.state.best.step)
    }
    expect(kills).toBe(3)
    const { out, killed } = await trainAndKill(run, dataFile, Number.POSITIVE_INFINITY, 0)
    expect(killed).toBe(false)
    expect(out).toMatch(/finished\n$/)

    const whole = join(folder, 'whole')
    await trainLinear(whole, dataFile)
    const [expected, actual] = [await readLastCheckpoint(whole), await readLastCheckpoint(run)]
    expect(actual?.state.step).toBe(steps)
    expect(actual?.parameters).toEqual(expected?.parameters)
    expect(actual?.moments).toEqual(expected?.moments)
    expect(await readMetrics(run)).toEqual(await readMetrics(whole))
    expect(await checkpointSteps(run)).toEqual(await checkpointSteps(whole))
    expect((await readSessions(run)).length).toBe(4)
    expect((await readdir(join(run, 'checkpoints'))).filter((name) => !/^step-\d+$/.test(name))).toEqual([])
  } finally {
    await rm(folder, { recursive: true })
  }
})

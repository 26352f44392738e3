import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { cp, mkdtemp, readdir, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as wait } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import {
  checkpointFolder,
  checkpointSteps,
  readBestCheckpoint,
  readCheckpoint,
  readLastCheckpoint,
  writeCheckpoint,
} from '../../src/training/checkpoint.ts'
import { uniformCheckpoint } from './checkpoint-writer.ts'

let folder: string
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'clara-checkpoint-'))
})
afterEach(() => rm(folder, { recursive: true, force: true }))

const writer = join(import.meta.dirname, 'checkpoint-writer.ts')

function startWriter(first: number, length: number, prefix = ''): ChildProcess {
  const words = [
    process.execPath,
    '--import',
    'tsx',
    writer,
    'write-checkpoints',
    folder,
    String(first),
    String(length),
  ]
  const command = `${prefix} exec ${words.map((word) => `'${word}'`).join(' ')}`
  return spawn('sh', ['-c', command], { stdio: ['ignore', 'pipe', 'pipe'] })
}

/** A checkpoint is whole when all of its numbers are its step. */
async function expectWhole(step: number): Promise<void> {
  const { state, parameters, moments } = await readCheckpoint(checkpointFolder(folder, step))
  expect(state.step).toBe(step)
  for (const arrays of [parameters, moments.first, moments.second]) {
    expect([...arrays.keys()]).toEqual(['a', 'b'])
    for (const values of arrays.values()) expect(values.every((value) => value === step)).toBe(true)
  }
}

describe('a checkpoint', () => {
  it('comes back as it was, bit for bit', async () => {
    const checkpoint = uniformCheckpoint(123, 5)
    checkpoint.parameters.get('a')?.set([0.1, -0, 1e-45, 3.4e38, 1 / 3])
    const written = await writeCheckpoint(folder, checkpoint, 2)
    expect(written).toBe(join(folder, 'checkpoints', 'step-000123'))
    const last = await readLastCheckpoint(folder)
    expect(last).toEqual({ folder: written, ...checkpoint })
    expect(Object.is(last?.parameters.get('a')?.[1], -0)).toBe(true)
  })

  it('takes the place of older ones, except the best', async () => {
    const best = { step: 2, metric: 'loss', value: 0.5 }
    for (let step = 1; step <= 6; step++) {
      const { state, ...arrays } = uniformCheckpoint(step, 3)
      await writeCheckpoint(folder, { ...arrays, state: { ...state, ...(step >= 2 ? { best } : {}) } }, 2)
    }
    expect(await checkpointSteps(folder)).toEqual([2, 5, 6])
    expect((await readBestCheckpoint(folder))?.state.step).toBe(2)
  })

  it('is not there in a run that has none', async () => {
    expect(await readLastCheckpoint(folder)).toBeUndefined()
    expect(await readBestCheckpoint(folder)).toBeUndefined()
  })

  it('is ordered by number past a million steps', async () => {
    for (const step of [999_999, 1_000_000]) await writeCheckpoint(folder, uniformCheckpoint(step, 3), 5)
    expect(await checkpointSteps(folder)).toEqual([999_999, 1_000_000])
  })

  it('with damaged files is an error that names the file', async () => {
    const written = await writeCheckpoint(folder, uniformCheckpoint(1, 100), 2)
    await truncate(join(written, 'moments.safetensors'), 300)
    await expect(readLastCheckpoint(folder)).rejects.toThrow(/moments\.safetensors/)
    await writeFile(join(written, 'state.json'), '{"version": 1, "step": -4}')
    await expect(readLastCheckpoint(folder)).rejects.toThrow(/state\.json is damaged: step/)
    await writeFile(join(written, 'state.json'), '{')
    await expect(readLastCheckpoint(folder)).rejects.toThrow(/state\.json cannot be read/)
  })
})

describe('an interrupted write', () => {
  it('killed at any moment leaves the last complete checkpoint loadable', { timeout: 60_000 }, async () => {
    let complete = 0
    for (let round = 0; round < 4; round++) {
      const child = startWriter(complete + 1, 400_000)
      let output = ''
      child.stdout?.on('data', (piece) => {
        output += piece
      })
      await once(child.stdout ?? child, 'data')
      // Anywhere within the next write or two.
      await wait(7 * round * round)
      child.kill('SIGKILL')
      await once(child, 'close')
      const reported = Number(output.trim().split('\n').at(-1))
      const steps = await checkpointSteps(folder)
      const last = steps.at(-1) ?? 0
      expect(last).toBeGreaterThanOrEqual(reported)
      for (const step of steps.slice(-2)) await expectWhole(step)
      complete = last
    }
    await writeCheckpoint(folder, uniformCheckpoint(complete + 1, 3), 2)
    const names = await readdir(join(folder, 'checkpoints'))
    expect(names.filter((name) => !/^step-\d+$/.test(name))).toEqual([])
  })

  it('leaves half a checkpoint under another name, which is neither read nor kept', async () => {
    const first = await writeCheckpoint(folder, uniformCheckpoint(1, 3), 2)
    await cp(first, `${checkpointFolder(folder, 2)}.tmp`, { recursive: true })
    expect(await checkpointSteps(folder)).toEqual([1])
    await writeCheckpoint(folder, uniformCheckpoint(3, 3), 2)
    expect((await readdir(join(folder, 'checkpoints'))).sort()).toEqual(['step-000001', 'step-000003'])
  })

  it('that runs out of room is an error, and the previous checkpoint is intact', { timeout: 60_000 }, async () => {
    await writeCheckpoint(folder, uniformCheckpoint(1, 400_000), 2)
    // A limit on file size stands in for a full disk: the write itself fails half-way.
    const child = startWriter(2, 400_000, 'ulimit -f 200;')
    let errors = ''
    child.stderr?.on('data', (piece) => {
      errors += piece
    })
    const [code] = await once(child, 'close')
    expect(code).toBe(1)
    expect(errors).toContain('ClaraError: The checkpoint of step 2 could not be written')
    expect(errors).toContain('Earlier checkpoints are intact')
    expect(await readdir(join(folder, 'checkpoints'))).toEqual(['step-000001'])
    await expectWhole(1)
  })
})

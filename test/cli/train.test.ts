import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { checkpointSteps, readLastCheckpoint } from '../../src/training/checkpoint.ts'
import { stageConfigSchema } from '../../src/training/stages/config.ts'
import { runStage } from '../../src/training/stages/run.ts'
import { salient, type TinyData, tinyData } from '../training/stages/tiny-run.ts'

const main = join(import.meta.dirname, '../../src/cli/main.ts')

let data: TinyData
beforeAll(async () => {
  data = await tinyData()
})
afterAll(() => data[Symbol.asyncDispose]())

/** Runs `clara` in a process of its own; interrupts it once what it says matches. */
function clara(
  words: readonly string[],
  interruptAt?: RegExp,
): Promise<{ status: number | null; out: string; err: string }> {
  return new Promise((settle, fail) => {
    const child = spawn(process.execPath, ['--import', 'tsx', main, ...words], { stdio: ['ignore', 'pipe', 'pipe'] })
    const said = { out: '', err: '' }
    let interrupted = false
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      said.out += text
    })
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      said.err += text
      if (!interrupted && interruptAt?.test(said.err)) {
        interrupted = true
        child.kill('SIGINT')
      }
    })
    child.on('error', fail)
    child.on('close', (status) => settle({ status, ...said }))
  })
}

test('a run that is interrupted writes a checkpoint, says how to go on, and --resume finishes it bit for bit', async () => {
  const settings = data.settings({
    output: join(data.folder, 'run'),
    steps: 30,
    batchSize: 2,
    compressor: salient,
    checkpoint: { steps: 3 },
  })
  const config = await data.write('run.json', JSON.stringify(settings))

  const stopped = await clara(['train', config], /checkpoint of step 3:/)
  const { output } = settings as { output: string }
  const last = (await checkpointSteps(output)).at(-1) ?? 0
  expect(last).toBeGreaterThanOrEqual(3)
  expect(last).toBeLessThan(30)
  expect(stopped.err).toMatch(/Training 30 steps/)
  expect(stopped.err).toMatch(/Stopping: the step in flight is finished first/)
  expect(stopped.err).toContain(`Stopped after step ${last} of 30.`)
  expect(stopped.err).toContain('Go on with the same command and --resume')
  expect(stopped.err).not.toContain('    at ')
  expect(stopped.status).toBe(130)

  const resumed = await clara(['train', config, '--resume', '--json'])
  expect(resumed.status).toBe(0)
  expect(resumed.out.trim().split('\n')).toHaveLength(1)
  expect(JSON.parse(resumed.out)).toMatchObject({ reason: 'finished', step: 30, steps: 30 })

  const whole = stageConfigSchema.parse({ ...settings, output: join(data.folder, 'whole') })
  await runStage({ config: whole })
  const [expected, actual] = [await readLastCheckpoint(whole.output), await readLastCheckpoint(output)]
  expect(actual?.parameters).toEqual(expected?.parameters)
  expect(actual?.moments).toEqual(expected?.moments)
})

test('a wrong configuration is told in one line, with status 1', async () => {
  const config = await data.write('wrong.json', JSON.stringify(data.settings({ learningrate: 1 })))
  const { status, out, err } = await clara(['train', config])
  expect({ status, out }).toEqual({ status: 1, out: '' })
  expect(err).toMatch(/^clara: The configuration .*wrong\.json is not valid: learningrate: no such setting\.\n$/)
})

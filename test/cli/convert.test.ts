import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { openSafetensors } from '../../src/checkpoint/safetensors.ts'
import { verbs } from '../../src/cli/verbs.ts'
import { parityFolder } from '../parity/support.ts'
import { fakeVerb, runClara } from './fakes.ts'

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'clara-convert-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const clara = (...words: string[]) => runClara(words, fakeVerb(), { verbs })
const published = join(parityFolder('mistral-1'), 'checkpoint-stage2')
const base = join(parityFolder('mistral-1'), 'base')

test('clara convert goes both ways and says where the base is', async () => {
  const model = join(folder, 'model')
  const there = await clara('convert', published, model)
  expect(there).toMatchObject({ status: 0, stderr: '' })
  expect(there.stdout).toBe(`${published} is now the model ${model}, on the base ${base}.\n`)
  const back = join(folder, 'published')
  const { stdout } = await clara('convert', model, back, '--to', 'published', '--base-name', '../base', '--json')
  const report = JSON.parse(stdout)
  expect(report).toEqual({
    output: back,
    base: '../base',
    stage: 'stage2',
    fingerprint: expect.stringMatching(/^\w{64}$/),
  })
  expect(JSON.parse(readFileSync(join(back, 'config.json'), 'utf8'))).toMatchObject({
    decoder_model_name: '../base',
    pure_inference: true,
  })

  // the same memory from either folder; the one whose base is elsewhere is told where
  const text = join(folder, 'river.txt')
  writeFileSync(text, 'Coal was towed on the river in long barges.')
  const memories: Buffer[] = []
  for (const words of [
    ['--model', model],
    ['--model', back, '--base', base],
  ]) {
    const output = join(folder, 'memories.safetensors')
    const compressed = await clara('compress', text, '--output', output, ...words, '--json')
    expect(compressed).toMatchObject({ status: 0, stderr: '' })
    expect(JSON.parse(compressed.stdout).fingerprint).toBe(report.fingerprint)
    await using file = await openSafetensors(output)
    const { data } = await file.read(`${text}#0`)
    memories.push(Buffer.from(data.buffer, data.byteOffset, data.byteLength))
  }
  expect(memories[1]).toEqual(memories[0])
})

test('clara convert says what cannot be, without a stack', async () => {
  const { status, stderr } = await clara(
    'convert',
    'models/clara-smollm2-135m',
    join(folder, 'out'),
    '--to',
    'published',
  )
  expect(status).toBe(1)
  expect(stderr).toMatch(/cannot be written in the published layout.*memory 'salient'/)
  expect(stderr).not.toMatch(/\bat .*\.ts/)
  expect(await clara('convert', published)).toMatchObject({ status: 2 })
  expect(await clara('convert', published, join(folder, 'x'), '--to', 'gguf')).toMatchObject({ status: 2 })
})

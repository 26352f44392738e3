import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, onTestFinished, test, vi } from 'vitest'
import { openSafetensors } from '../../src/checkpoint/safetensors.ts'
import { Clara } from '../../src/clara/clara.ts'
import { verbs } from '../../src/cli/verbs.ts'
import { fakeVerb, runClara } from './fakes.ts'

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'clara-compress-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const compress = (...words: string[]) => runClara(['compress', ...words], fakeVerb(), { verbs })

test('clara compress writes one memory a passage, the same that the library makes', async () => {
  const path = join(folder, 'river.txt')
  const text = 'Coal was towed on the river in long barges. '.repeat(15)
  writeFileSync(path, text)
  const output = join(folder, 'memories.safetensors')
  const { status, stdout, stderr } = await compress(path, '--output', output, '--json')
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
  const report = JSON.parse(stdout)

  await using written = await openSafetensors(output)
  expect(written.metadata.get('fingerprint')).toBe(report.fingerprint)
  const passages: { id: string; start: number; end: number; text: string }[] = JSON.parse(
    written.metadata.get('passages') ?? '',
  )
  expect(passages.length).toBeGreaterThan(1)
  expect(passages.map(({ id }) => id)).toEqual(passages.map((_, index) => `${path}#${index}`))
  for (const passage of passages) expect(passage.text).toBe(text.slice(passage.start, passage.end))

  await using clara = await Clara.load()
  const memories = await clara.compressDocuments(passages.map((passage) => passage.text))
  let bytes = 0
  for (const [index, { id }] of passages.entries()) {
    const tensor = await written.read(id)
    expect(tensor).toMatchObject({ dtype: 'float32', dims: memories[index]?.shape })
    expect(Buffer.from(tensor.data.buffer, tensor.data.byteOffset, tensor.data.byteLength)).toEqual(
      Buffer.from(memories[index]?.tokens.buffer ?? new ArrayBuffer(0)),
    )
    bytes += tensor.data.byteLength
  }
  expect(report).toMatchObject({
    output,
    files: 1,
    passages: passages.length,
    memoryTokens: memories.reduce((sum, { shape }) => sum + shape[0], 0),
    bytes,
  })
  expect(report.textTokens).toBeGreaterThan(3 * report.memoryTokens)
})

test('clara compress leaves nothing behind where it fails', async () => {
  const path = join(folder, 'a.txt')
  writeFileSync(path, 'One sentence.')
  const before = readdirSync(folder)
  expect(await compress(path)).toMatchObject({ status: 2 })
  const nowhere = await compress(path, '--output', join(folder, 'none', 'out.safetensors'))
  expect(nowhere).toMatchObject({ status: 1, stdout: '' })
  expect(nowhere.stderr).toMatch(/its folder does not exist/)
  expect(readdirSync(folder)).toEqual(before)
})

test('clara compress holds weights as it is told, in the cache that CLARA_CACHE names', async () => {
  vi.stubEnv('CLARA_CACHE', join(folder, 'cache'))
  onTestFinished(() => {
    vi.unstubAllEnvs()
  })
  const model = join(import.meta.dirname, '..', 'fixtures', 'parity', 'mistral-1', 'checkpoint')
  const text = join(folder, 'small.txt')
  writeFileSync(text, 'The bridges were closed for nine days.')
  const memoryOf = async (...flags: string[]) => {
    const output = join(folder, `${flags.join('')}.safetensors`)
    const { status, stderr } = await compress(text, '--output', output, '--model', model, ...flags)
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
    await using memories = await openSafetensors(output)
    return [...(await memories.read(`${text}#0`)).data].map(Number)
  }
  const whole = await memoryOf('--weights', 'int4')
  expect(readdirSync(join(folder, 'cache')).length).toBe(2)
  expect(await memoryOf('--weights', 'int4', '--low-memory')).toEqual(whole)
  expect(await memoryOf('--weights', 'fp32')).not.toEqual(whole)
  expect(await compress(text, '--output', 'x', '--weights', 'int3')).toMatchObject({ status: 2 })
})

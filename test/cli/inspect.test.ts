import { copyFile, cp, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, onTestFinished, test } from 'vitest'
import { openWeights } from '../../src/checkpoint/weights.ts'
import { loadModel } from '../../src/clara/model.ts'
import { openModel } from '../../src/clara/open.ts'
import { verbs } from '../../src/cli/verbs.ts'
import { dictionary, pth, storage, tensor } from '../checkpoint/pickle-bytes.ts'
import { copyOf, editJson, parityFolder } from '../parity/support.ts'
import { fakeVerb, runClara } from './fakes.ts'

const mistral = parityFolder('mistral-1')
const inspect = (...words: string[]) => runClara(['inspect', ...words], fakeVerb(), { verbs })
async function report(...words: string[]) {
  const { status, stdout, stderr } = await inspect(...words, '--json')
  expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
  return JSON.parse(stdout)
}

async function temporary(): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'clara-inspect-'))
  onTestFinished(() => rm(folder, { recursive: true, force: true }))
  return folder
}

describe('clara inspect tells what is in', () => {
  test('a GGUF', async () => {
    const path = 'models/SmolLM2-135M-Instruct.Q4_1.gguf'
    const found = await report(path)
    await using source = await openWeights(path)
    expect(found).toMatchObject({
      path,
      kind: 'weights',
      // 134.5 million, as the model's name says
      parameters: 134_515_008,
      bytes: 98_362_432,
      architecture: { model_type: 'llama', num_hidden_layers: 30, hidden_size: 576, tie_word_embeddings: true },
      fingerprint: await source.fingerprint(),
      files: [{ format: 'GGUF', metadata: { 'general.architecture': 'llama', 'general.license': 'apache-2.0' } }],
    })
    expect(found.files[0].tensors).toHaveLength(272)
    expect(found.files[0].tensors[0]).toEqual({ name: 'token_embd.weight', dtype: 'Q8_0', shape: [49152, 576] })
    const { stdout } = await inspect(path, '--no-fingerprint')
    expect(stdout).toContain('  blk.{0-29}.ffn_down.weight  Q4_1 [576, 1536], 30 times\n')
    expect(stdout).not.toContain('blk.7.')
    expect((await inspect(path, '--tensors', '--no-fingerprint')).stdout).toContain(
      '  blk.7.ffn_down.weight  Q4_1 [576, 1536]\n',
    )
  })

  test('the embedded model', async () => {
    const found = await report('models/clara-smollm2-135m')
    const model = await loadModel('models/clara-smollm2-135m')
    expect(found).toMatchObject({
      kind: 'model',
      stage: model.stage,
      settings: model.config,
      memoryTokens: 32,
      architecture: JSON.parse(JSON.stringify(model.base.config)),
      base: { name: '../SmolLM2-135M-Instruct.Q4_1.gguf' },
      baseFingerprint: model.base.fingerprint,
      fingerprint: model.fingerprint,
    })
    expect(new Set(found.adapters.map(({ role, rank, layers }: never) => `${role} ${rank} ${layers}`))).toEqual(
      new Set(['encoder_adapter 16 8', 'decoder_adapter 16 30', 'query_reasoner_adapter 16 8']),
    )
    const { stdout } = await inspect('models/clara-smollm2-135m')
    expect(stdout).toMatch(/^settings +compr_rate 4, .*memory salient, compressorLayers 8/m)
  })

  test('a published checkpoint, its base found or not', async () => {
    const folder = join(mistral, 'checkpoint-stage2')
    const found = await report(folder)
    const model = await openModel(folder)
    expect(found).toMatchObject({
      kind: 'published checkpoint',
      stage: 'stage2',
      memoryTokens: 6,
      architecture: { model_type: 'mistral', num_hidden_layers: 3 },
      base: { name: '../base', path: join(mistral, 'base') },
      baseFingerprint: model.base.fingerprint,
      fingerprint: model.fingerprint,
      settings: { compr_rate: 8, decoder_model_name: '../base', training_form: 'both' },
    })
    // rank 4 on seven linear layers of three layers; by hand from the sizes of the base
    const factors = 3 * 4 * (2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128))
    expect(found.adapters).toEqual(
      ['encoder_adapter', 'decoder_adapter', 'query_reasoner_adapter'].map((role) => ({
        role,
        rank: 4,
        layers: 3,
        parameters: factors,
        dtypes: ['F32'],
      })),
    )
    expect(found.parameters).toBe(3 * factors + 2 * 926 * 64)
    await using copy = await copyOf('mistral-1')
    await rm(join(copy.path, 'base'), { recursive: true })
    const alone = await report(join(copy.path, 'checkpoint'))
    expect(alone).toMatchObject({ kind: 'published checkpoint', stage: 'stage1', base: { name: '../base' } })
    expect(alone.base.path).toBeUndefined()
    expect(alone.fingerprint).toBeUndefined()
    expect((await inspect(join(copy.path, 'checkpoint'))).stdout).toMatch(/^base +..\/base \(not found\)$/m)
    expect((await report(join(copy.path, 'checkpoint'), '--base', join(mistral, 'base'))).base.path).toBe(
      join(mistral, 'base'),
    )
  })

  test('a base model, in shards too, and one of an unknown family', async () => {
    const found = await report(join(mistral, 'base'))
    expect(found).toMatchObject({ kind: 'base model', parameters: 228_416, architecture: { vocab_size: 917 } })
    await using copy = await copyOf('mistral-1')
    const base = join(copy.path, 'base')
    const names = found.files[0].tensors.map(({ name }: { name: string }) => name)
    const map = Object.fromEntries(names.map((name: string) => [name, 'only.safetensors']))
    await copyFile(join(base, 'model.safetensors'), join(base, 'only.safetensors'))
    await rm(join(base, 'model.safetensors'))
    await writeFile(join(base, 'model.safetensors.index.json'), JSON.stringify({ weight_map: map }))
    expect(await report(base)).toMatchObject({ parameters: 228_416, fingerprint: found.fingerprint })
    await editJson(join(base, 'config.json'), (config) => Object.assign(config, { model_type: 'mamba' }))
    const unknown = await report(base)
    expect(unknown.architectureProblem).toMatch(/'mamba' is unknown/)
    expect(unknown.parameters).toBe(228_416)
    expect((await report(join(mistral, 'base'), '--no-fingerprint')).fingerprint).toBeUndefined()
  })

  test('single files, whatever their names are', async () => {
    const folder = await temporary()
    await copyFile(join(mistral, 'checkpoint', 'adapters.pth'), join(folder, 'a'))
    const adapters = await report(join(folder, 'a'))
    expect(adapters.files[0].format).toBe('PyTorch')
    expect(adapters.adapters.map(({ role }: { role: string }) => role)).toEqual(['encoder_adapter', 'decoder_adapter'])
    const value = dictionary({ w: tensor(storage('BFloat16', '0', 4), 0, [2, 2], [2, 1]), step: 7, name: 'x' })
    await writeFile(join(folder, 'b'), pth(value, { 0: new Uint8Array(8) }))
    expect((await report(join(folder, 'b'))).files[0]).toMatchObject({
      tensors: [{ name: 'w', dtype: 'BF16', shape: [2, 2] }],
      metadata: { step: 7, name: 'x' },
    })
    await copyFile(join(mistral, 'base', 'model.safetensors'), join(folder, 'c'))
    expect((await report(join(folder, 'c'))).files[0]).toMatchObject({
      format: 'safetensors',
      metadata: { format: 'pt' },
    })
  })

  test('the newest checkpoint of a run', async () => {
    const folder = await temporary()
    for (const step of ['step-000002', 'step-000010']) {
      await mkdir(join(folder, 'checkpoints', step), { recursive: true })
      const path = join(folder, 'checkpoints', step, 'parameters.safetensors')
      await copyFile('models/clara-smollm2-135m/adapters.safetensors', path)
    }
    const found = await report(folder)
    expect(found.run).toMatchObject({ folder, step: 10 })
    expect(found.adapters).toHaveLength(3)
  })
})

describe('clara inspect refuses', () => {
  test('what is no model, saying what is there', async () => {
    const folder = await temporary()
    await writeFile(join(folder, 'notes.txt'), 'a text')
    for (const [path, message] of [
      [join(folder, 'nowhere'), /does not exist/],
      [folder, /holds no model.*notes.txt/],
      [join(folder, 'notes.txt'), /is no file of weights.*GGUF, safetensors/],
    ] as const) {
      const { status, stderr } = await inspect(path)
      expect(status).toBe(1)
      expect(stderr).toMatch(message)
    }
  })

  test('a hostile file, like every reader here', async () => {
    const folder = await temporary()
    await cp(join(mistral, 'checkpoint'), join(folder, 'checkpoint'), { recursive: true })
    const path = join(folder, 'checkpoint', 'adapters.pth')
    const bytes = await readFile(path)
    await rm(path)
    await writeFile(path, bytes.subarray(0, 5000))
    expect((await inspect(join(folder, 'checkpoint'))).stderr).toMatch(/adapters.pth" is not a zip file, or its end is/)
    expect(await readdir(folder)).toEqual(['checkpoint'])
  })
})

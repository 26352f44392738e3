import { cp, mkdtemp, readFile, rename, rm, truncate, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest'
import { openSafetensors, writeSafetensors } from '../../src/checkpoint/safetensors.ts'
import { Clara } from '../../src/clara/clara.ts'
import { loadModel } from '../../src/clara/model.ts'
import type { HostTensor } from '../../src/graph/dtype.ts'
import { openRuntime } from '../../src/runtime/runtime.ts'
import { readLastCheckpoint } from '../../src/training/checkpoint.ts'
import { readMetrics } from '../../src/training/metrics.ts'
import { controlBatches, meanLoss } from '../../src/training/stages/evaluation.ts'
import { stageIdf, stageMaterial } from '../../src/training/stages/material.ts'
import { packRun } from '../../src/training/stages/pack.ts'
import { runStage } from '../../src/training/stages/run.ts'
import { openStage1Evaluation } from '../../src/training/stages/stage1.ts'
import { salient, type TinyData, tinyData } from '../training/stages/tiny-run.ts'
import { roundToFloat16 } from './half.ts'
import { tinyBase } from './tiny.ts'

let data: TinyData
beforeAll(async () => {
  data = await tinyData()
  const changes = { output: join(data.folder, 'run'), steps: 2, compressor: salient, learningRate: 0.05 }
  await runStage({ config: data.config(changes) })
  await packRun({ runFolder: changes.output, modelFolder: join(data.folder, 'model'), which: 'last' })
})
afterAll(() => data[Symbol.asyncDispose]())

/** A copy of the packed model that a test may damage. Its base and tokenizer are named by absolute paths. */
async function copy(edit: (config: Record<string, unknown>) => void = () => undefined): Promise<string> {
  const root = await mkdtemp(join(tmpdir(), 'clara-model-'))
  onTestFinished(() => rm(root, { recursive: true, force: true }))
  const folder = join(root, 'model')
  await cp(join(data.folder, 'model'), folder, { recursive: true })
  const path = join(folder, 'config.json')
  const config = { ...JSON.parse(await readFile(path, 'utf8')), base: tinyBase(), tokenizer: tinyBase() }
  edit(config)
  await writeFile(path, JSON.stringify(config))
  return folder
}

async function editAdapters(folder: string, edit: (tensors: Map<string, HostTensor>) => void): Promise<void> {
  const path = join(folder, 'adapters.safetensors')
  const tensors = new Map<string, HostTensor>()
  {
    await using file = await openSafetensors(path)
    for (const name of file.tensors.keys()) tensors.set(name, await file.read(name))
  }
  edit(tensors)
  await rm(path)
  await writeSafetensors(path, tensors)
}

describe('a packed run', () => {
  test.each([
    ['salient', 'mistral-1', { compressor: salient }],
    ['tokens', 'mistral-1', { differentMemTokens: true }],
    ['one token repeated, tied embeddings', 'llama-3', {}],
  ] as const)('loads as it was trained, but for the rounding to float16: %s', async (name, architecture, changes) => {
    const file = join(data.folder, 'passages.jsonl')
    const evaluation = { samples: 4, data: [{ file, task: 'answer' }] }
    const output = join(data.folder, `run-${name}`)
    const config = data.config({
      output,
      base: tinyBase(architecture),
      steps: 2,
      learningRate: 0.05,
      evaluation,
      ...changes,
    })
    await runStage({ config })
    const folder = join(data.folder, `model-${name}`)
    await packRun({ runFolder: output, modelFolder: folder, which: 'last' })
    const model = await loadModel(folder)
    const checkpoint = await readLastCheckpoint(output)
    expect([...model.parameters.keys()].sort()).toEqual([...(checkpoint?.parameters.keys() ?? [])].sort())
    for (const [parameter, values] of checkpoint?.parameters ?? []) {
      const loaded = model.parameters.get(parameter)
      expect(Array.from(loaded?.data ?? [], Number), parameter).toEqual(Array.from(values, roundToFloat16))
    }
    const material = await stageMaterial(config)
    const idf = stageIdf(config, material)
    expect(model.idf && Array.from(model.idf)).toEqual(idf && Array.from(idf, roundToFloat16))
    expect(model.tokenizer.vocabularySize).toBe(material.tokenizer.vocabularySize)
    const settings = {
      compr_rate: 4,
      doc_max_length: 24,
      different_mem_tokens: config.differentMemTokens,
      lora_r: 4,
      lora_alpha: 8,
    }
    expect(model.config).toMatchObject({ ...settings, compressor: config.compressor })
    expect(model.stage).toBe('stage1')

    // the loss that the run reported at its end is that of the loaded model
    await using runtime = await openRuntime({ threads: 1 })
    const session = await openStage1Evaluation({
      runtime,
      base: model.base,
      lora: { rank: 4, alpha: 8 },
      pooling: { config: model.config.compressor, fixedCount: 6, idf: model.idf },
      memoryTokens: model.memoryTokens,
      firstMemoryToken: model.firstMemoryToken,
      padId: model.tokenizer.padId,
      positions: 1000,
      dropout: 0,
      mseWeight: 0,
      parameters: model.parameters,
    })
    const controls = await controlBatches(file, 4, { ...material.optionsAt(4), tokenizer: model.tokenizer }, 4)
    const reported = (await readMetrics(output)).findLast(({ kind }) => kind === 'evaluation')?.values
    expect(Math.abs((await meanLoss(controls.right, session.loss)) - (reported?.['loss'] ?? Number.NaN))).toBeLessThan(
      2e-3,
    )
    expect(
      Math.abs((await meanLoss(controls.text, session.loss)) - (reported?.['lossFullText'] ?? Number.NaN)),
    ).toBeLessThan(2e-3)
    await session.close()

    // and it can be used
    await using clara = await Clara.open(model, { weights: 'fp32', threads: 1 })
    const [memory] = await clara.compressDocuments(['The river rose for nine days.'])
    const answers = await clara.generateFromCompressedDocumentsAndQuestions(['What rose?'], [memory ? [memory] : []], {
      maxNewTokens: 3,
    })
    expect(answers).toHaveLength(1)
  })

  test('moves with its base: the paths in it are relative', async () => {
    const root = await mkdtemp(join(tmpdir(), 'clara-moved-'))
    onTestFinished(() => rm(root, { recursive: true, force: true }))
    await cp(tinyBase(), join(root, 'a', 'base'), { recursive: true })
    const output = join(root, 'run')
    await runStage({ config: data.config({ output, base: join(root, 'a', 'base'), steps: 1 }) })
    await packRun({ runFolder: output, modelFolder: join(root, 'a', 'model'), which: 'last' })
    const before = await loadModel(join(root, 'a', 'model'))
    await rename(join(root, 'a'), join(root, 'b c'))
    expect((await loadModel(join(root, 'b c', 'model'))).fingerprint).toBe(before.fingerprint)
  })
})

test('documents with more memory tokens than the model has names for are refused', async () => {
  const output = join(data.folder, 'run-named')
  await runStage({ config: data.config({ output, steps: 1, compressor: salient, differentMemTokens: true }) })
  await packRun({ runFolder: output, modelFolder: join(data.folder, 'model-named'), which: 'last' })
  await using clara = await Clara.load(join(data.folder, 'model-named'), { threads: 1 })
  const text = 'The river rose for nine days, and then it fell again.'
  expect(await clara.generateFromText(['What rose?'], [[text]], { maxNewTokens: 1 })).toHaveLength(1)
  const memories = await clara.compressDocuments([text], { rate: 1 })
  await expect(
    clara.generateFromCompressedDocumentsAndQuestions(['What rose?'], [memories], { maxNewTokens: 1 }),
  ).rejects.toThrow(/more memory tokens than the model has names for.*at most 6 memory tokens/)
})

describe('the fingerprint', () => {
  test('is the same for the same files, and another for another parameter or configuration', async () => {
    const { fingerprint } = await loadModel(await copy())
    expect((await loadModel(await copy())).fingerprint).toBe(fingerprint)
    const changed = await copy()
    await editAdapters(changed, (tensors) => {
      const beta = tensors.get('salient.beta')
      if (beta) tensors.set('salient.beta', { ...beta, data: Float32Array.from([2]) })
    })
    expect((await loadModel(changed)).fingerprint).not.toBe(fingerprint)
    const causal = await copy((config) => {
      Object.assign((config['clara'] as Record<string, object>)['compressor'] ?? {}, { attention: 'causal' })
    })
    expect((await loadModel(causal)).fingerprint).not.toBe(fingerprint)
  })
})

describe('a model folder is refused', () => {
  test('when there is none', async () => {
    await expect(loadModel(join(data.folder, 'nowhere'))).rejects.toThrow(
      /no CLaRa model in .*nowhere.*config\.json and adapters\.safetensors/,
    )
  })

  test('when its adapters belong to another base; both fingerprints are named', async () => {
    const known = JSON.parse(await readFile(join(data.folder, 'model', 'config.json'), 'utf8'))
      .base_fingerprint as string
    const other = 'f'.repeat(64)
    const folder = await copy((config) => Object.assign(config, { base_fingerprint: other }))
    const wrong = await loadModel(folder).catch((error: Error) => error.message)
    expect(wrong).toMatch(/belong to another base model/)
    expect(wrong).toContain(other.slice(0, 16))
    expect(wrong).toContain(known.slice(0, 16))
  })

  test.each([
    ['{"format": "clara-ts",', /config\.json is not JSON/],
    ['[]', /config\.json does not describe a CLaRa model/],
    [{ version: 2 }, /does not describe a CLaRa model: version: /],
    [{ format: 'other' }, /does not describe a CLaRa model: format: /],
    [{ licence: 'x' }, /does not describe a CLaRa model: .*licence/],
    [{ base: undefined }, /does not describe a CLaRa model: base: /],
    [{ clara: { compr_rate: 0, doc_max_length: 24 } }, /does not describe a CLaRa model: clara\.compr_rate: /],
    [{ clara: { compr_rate: 4, doc_max_length: 24, rank: 4 } }, /does not describe a CLaRa model: clara: .*rank/],
  ])('when its config.json is wrong: %j', async (change, message) => {
    const folder = await copy((config) => {
      if (typeof change !== 'string') Object.assign(config, change)
    })
    if (typeof change === 'string') await writeFile(join(folder, 'config.json'), change)
    await expect(loadModel(folder)).rejects.toThrow(message)
  })

  test('when its adapters are missing or cut short', async () => {
    const folder = await copy()
    await truncate(join(folder, 'adapters.safetensors'), 5000)
    await expect(loadModel(folder)).rejects.toThrow(/adapters\.safetensors/)
    await rm(join(folder, 'adapters.safetensors'))
    await expect(loadModel(folder)).rejects.toThrow(/adapters\.safetensors/)
  })

  const factor = 'model.layers.2.mlp.up_proj.lora_B.decoder_adapter.weight'
  test.each<[string, (tensors: Map<string, HostTensor>) => void, RegExp]>([
    [
      'the rows of its added tokens',
      (all) => all.delete('special_tokens.weight'),
      /lacks the parameter 'special_tokens\.weight'/,
    ],
    ['a factor of an adapter', (all) => all.delete(factor), /lacks the parameter 'model\.layers\.2\..*decoder_adapter/],
    ['the rarity of tokens', (all) => all.delete('salient.idf'), /lacks the parameter 'salient\.idf'/],
    [
      'rows of the right number',
      (all) => all.set('special_tokens.weight', { dtype: 'float32', dims: [3, 64], data: new Float32Array(3 * 64) }),
      /parameter 'special_tokens\.weight' of .* has the wrong shape.*Expected \[4, 64\].*Got \[3, 64\]/,
    ],
    [
      'a factor of the right rank',
      (all) => all.set(factor, { dtype: 'float32', dims: [128, 2], data: new Float32Array(256) }),
      /parameter 'model\.layers\.2.* has the wrong shape.*Expected \[128, 4\].*Got \[128, 2\]/,
    ],
    [
      'only what it has a use for',
      (all) => all.set('other.weight', { dtype: 'float32', dims: [1], data: new Float32Array(1) }),
      /has a parameter 'other\.weight', for which the model has no use/,
    ],
  ])('when it lacks %s', async (_, edit, message) => {
    const folder = await copy()
    await editAdapters(folder, edit)
    await expect(loadModel(folder)).rejects.toThrow(message)
  })

  test('when its tokenizer has more tokens than the base has rows', async () => {
    const folder = await copy((config) => Object.assign(config, { tokenizer: join(process.cwd(), 'models') }))
    await expect(loadModel(folder)).rejects.toThrow(/tokenizer does not belong to .*at most 917 tokens.*49152 tokens/s)
  })

  test('when its base is not there', async () => {
    const folder = await copy((config) => Object.assign(config, { base: './nothing.gguf' }))
    await expect(loadModel(folder)).rejects.toThrow(/nothing\.gguf/)
  })
})

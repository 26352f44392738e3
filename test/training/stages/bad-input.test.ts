import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readdir } from 'node:fs/promises'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { checkpointSteps, readLastCheckpoint } from '../../../src/training/checkpoint.ts'
import { checkConfig } from '../../../src/training/config.ts'
import { stageConfigSchema } from '../../../src/training/stages/config.ts'
import { packRun } from '../../../src/training/stages/pack.ts'
import { runStage } from '../../../src/training/stages/run.ts'
import { salient, type TinyData, tinyData } from './tiny-run.ts'

let data: TinyData
beforeAll(async () => {
  data = await tinyData()
})
afterAll(() => data[Symbol.asyncDispose]())

const at = (name: string) => join(data.folder, name)
const run = (changes: Record<string, unknown>) => runStage({ config: data.config({ output: at('none'), ...changes }) })
const answers = (file: string) => ({ data: [{ file, task: 'answer' }] })

describe('a configuration', () => {
  test.each([
    [{ learningrate: 1e-3 }, /learningrate: no such setting/],
    [{ lora: { rank: 4, drop: 0.1 } }, /lora\.drop: no such setting/],
    [{ compressor: { memory: 'mean', layers: 8 } }, /compressor\.layers: no such setting/],
    [{ compressor: { memory: 'median' } }, /compressor\.memory: /],
    [{ compressor: { ...salient, similarity: 'flat' } }, /compressor\.similarity: .*maxsim/],
    [{ compressionRates: [0.5] }, /compressionRates\.0: /],
    [
      { compressionRates: [25] },
      /compressionRates: a document of docMaxLength \(24\) tokens would get no memory at rate 25/,
    ],
    [{ compressionRates: [4, 2] }, /compressionRates: several rates need compressor\.proportional/],
    [{ compressor: salient, compressionRates: [4, 2], differentMemTokens: true }, /the smallest rate must come first/],
    [{ data: [] }, /data: /],
    [{ data: [{ file: 'x.jsonl', task: 'translate' }] }, /data\.0\.task: /],
    [{ steps: 0 }, /steps: /],
  ])('refuses %j', (changes, message) => {
    expect(() => checkConfig(data.settings(changes), stageConfigSchema, 'run.json')).toThrow(
      /^The configuration run\.json is not valid: /,
    )
    expect(() => checkConfig(data.settings(changes), stageConfigSchema, 'run.json')).toThrow(message)
  })
})

describe('a dataset', () => {
  test('with a line that is not JSON, or no record of its kind, is an error with file and line', async () => {
    const good = JSON.stringify({ id: 'a', text: 'A b.', qa: [{ question: 'Q?', answers: ['A'] }] })
    const broken = await data.write('broken.jsonl', `${good}\n\n${good}\n{"id": "b", "text":\n`)
    await expect(run(answers(broken))).rejects.toThrow(`${broken}:4: the line is not JSON`)
    const foreign = await data.write('foreign.jsonl', `${good}\n{"id": "b", "text": "no questions"}\n`)
    await expect(run(answers(foreign))).rejects.toThrow(`${foreign}:2: the record does not fit its schema`)
  })

  test('that is missing is an error that names the file', async () => {
    await expect(run(answers(at('missing.jsonl')))).rejects.toThrow(
      /missing\.jsonl: the file cannot be read \(ENOENT\)/,
    )
  })

  test('that cannot serve its task is an error that says what it should hold', async () => {
    const pairs = { data: [{ file: at('pools.jsonl'), task: 'qa-pairs' }] }
    await expect(run(pairs)).rejects.toThrow(
      /pools\.jsonl holds nothing for the task 'qa-pairs'\. Expected passages with qa/,
    )
    const paraphrases = { data: [{ file: at('passages.jsonl'), task: 'paraphrase' }] }
    await expect(run(paraphrases)).rejects.toThrow(/passages\.jsonl holds nothing for the task 'paraphrase'/)
    const empty = await data.write('empty.jsonl', '')
    await expect(run(answers(empty))).rejects.toThrow(/empty\.jsonl holds nothing for the task 'answer'/)
    const record = { id: 'a', text: 'A b.', qa: [{ question: 'Q?', answers: ['not in the text'] }] }
    const unanswered = await data.write('unanswered.jsonl', `${JSON.stringify(record)}\n`)
    await expect(run(answers(unanswered))).rejects.toThrow(
      /unanswered\.jsonl holds nothing.*answers occur in their text/,
    )
  })

  test('that mixes passages with questions that have candidates is an error: one kind would be passed over', async () => {
    const passage = JSON.stringify({ id: 'a', text: 'A b.', qa: [{ question: 'Q?', answers: ['A'] }] })
    const candidates = [{ title: '', text: 'A b.', supporting: true }]
    const pool = JSON.stringify({ id: 'b', question: 'Q?', answers: ['A'], candidates })
    const file = await data.write('mixed.jsonl', `${passage}\n${pool}\n`)
    await expect(run(answers(file))).rejects.toThrow(/mixed\.jsonl mixes passages with questions/)
  })

  test('for evaluation needs another passage for the wrong memory', async () => {
    const record = { id: 'a', text: 'A b.', qa: [{ question: 'Q?', answers: ['A'] }] }
    const file = await data.write('single.jsonl', `${JSON.stringify(record)}\n`)
    await expect(run({ evaluation: { data: [{ file, task: 'answer' }] } })).rejects.toThrow(
      /single\.jsonl has fewer than two passages/,
    )
  })
})

describe('a base model', () => {
  test('that is not there, or whose tokenizer is another, is an error that names it', async () => {
    await expect(run({ base: at('no-base') })).rejects.toThrow(/no-base/)
    await expect(run({ tokenizer: 'models' })).rejects.toThrow(
      /tokenizer does not belong to.*at most 917 tokens.*49152 tokens/s,
    )
  })
})

describe('prompts', () => {
  test('that are all cut before their answer are an error that says what to do', async () => {
    await expect(run({ maxLength: 30, steps: 1 })).rejects.toThrow(
      /Step 1 has nothing to learn from.*Raise the maximal length/,
    )
  })

  test('shorter than a document are no trouble for the compressor', async () => {
    const file = at('passages.jsonl')
    const record = { id: 'a', text: 'word '.repeat(200), qa: [{ question: 'Q?', answers: ['word'] }] }
    const long = await data.write('long.jsonl', `${JSON.stringify(record)}\n`)
    const changes = {
      output: at('short'),
      docMaxLength: 180,
      compressionRates: [90],
      maxLength: 150,
      questionsPerRow: 1,
      steps: 2,
    }
    const result = await run({
      ...changes,
      data: [
        { file: long, task: 'answer' },
        { file, task: 'answer' },
      ],
    })
    expect(result.reason).toBe('finished')
  })
})

describe('initialise', () => {
  test('from a folder without a run, or from a run that does not fit, is an error', async () => {
    await expect(run({ initialise: at('nothing') })).rejects.toThrow(
      /no checkpoint in .*nothing to start from.*initialise/,
    )
    await run({ output: at('earlier'), steps: 1 })
    const bigger = { output: at('later'), initialise: at('earlier'), lora: { rank: 8 } }
    await expect(run(bigger)).rejects.toThrow(
      /parameter 'model\.layers\.0\..*lora_A.*' in .*earlier.* does not fit.*rank/,
    )
    const trimmed = { output: at('later'), initialise: at('earlier'), compressor: { compressorLayers: 1 } }
    await expect(run(trimmed)).rejects.toThrow(/parameter 'model\.layers\.1\..*encoder_adapter.*does not fit/)
    expect(await checkpointSteps(at('later'))).toEqual([])
  })
})

describe('a model folder', () => {
  test('serves as a beginning, but not beside other embeddings of the added tokens', async () => {
    await run({ output: at('taught'), steps: 2 })
    await packRun({ runFolder: at('taught'), modelFolder: at('taught-model'), which: 'last' })
    const unchanged = { steps: 1, learningRate: 1e-30, initialise: at('taught-model') }
    await run({ ...unchanged, output: at('from-model') })
    const [taught, begun] = [await readLastCheckpoint(at('taught')), await readLastCheckpoint(at('from-model'))]
    for (const [name, values] of begun?.parameters ?? []) {
      const before = taught?.parameters.get(name) ?? new Float32Array()
      values.forEach((value, index) => {
        expect(Math.abs(value - (before[index] ?? Number.NaN))).toBeLessThan(1e-3 * (1 + Math.abs(value)))
      })
    }
    await expect(run({ ...unchanged, output: at('later'), embeddingSeed: 6 })).rejects.toThrow(
      /added tokens of .*taught-model have other embeddings.*embeddingSeed/,
    )
  })
})

describe('resuming', () => {
  test('with other settings, or where nothing is, is an error; so is a run over another', async () => {
    await run({ output: at('begun'), steps: 1 })
    const other = data.config({ output: at('begun'), steps: 1, learningRate: 0.5 })
    await expect(runStage({ config: other, resume: true })).rejects.toThrow(/started with other settings: learningRate/)
    await expect(run({ output: at('begun'), steps: 1 })).rejects.toThrow(/already holds a run.*--resume/)
    await expect(runStage({ config: data.config({ output: at('absent') }), resume: true })).rejects.toThrow(
      /nothing to resume/,
    )
  })

  test('needs no longer the run that it was initialised from', async () => {
    const config = data.config({ output: at('continued'), initialise: at('begun'), steps: 1 })
    await runStage({ config })
    const moved = { ...config, initialise: at('begun') }
    const { rename } = await import('node:fs/promises')
    await rename(at('begun'), at('elsewhere'))
    expect(await runStage({ config: moved, resume: true })).toMatchObject({ reason: 'finished', step: 1 })
  })
})

test('packing a folder without a run is an error', async () => {
  const options = { runFolder: at('no-run'), modelFolder: at('model'), which: 'last' } as const
  await expect(packRun(options)).rejects.toThrow(/no last checkpoint in .*no-run.*output folder of a training run/)
})

test('a disk that is full during a checkpoint ends the run; the checkpoint before is whole and goes on', async () => {
  const config = data.settings({ output: at('full'), steps: 6, checkpoint: { steps: 2, keep: 1 } })
  const small = await data.write('full.json', JSON.stringify(config))
  await runUntil(2)
  // moments.safetensors has about 550 KiB: a limit on the size of files stands in for a full disk
  const main = join(import.meta.dirname, '../../../src/cli/main.ts')
  const command = `ulimit -f 100; exec '${process.execPath}' --import tsx '${main}' train '${small}' --resume`
  const child = spawn('sh', ['-c', command], { stdio: ['ignore', 'pipe', 'pipe'] })
  let errors = ''
  child.stderr.on('data', (piece) => {
    errors += piece
  })
  const [code] = await once(child, 'close')
  expect(errors).toMatch(/The checkpoint of step 4 could not be written.*Earlier checkpoints are intact/s)
  expect(errors).not.toContain('    at ')
  expect(code).toBe(1)
  expect(await readdir(join(at('full'), 'checkpoints'))).toEqual(['step-000002'])
  expect((await readLastCheckpoint(at('full')))?.state.step).toBe(2)
  const settings = checkConfig(config, stageConfigSchema, small)
  expect(await runStage({ config: settings, resume: true })).toMatchObject({ reason: 'finished', step: 6 })

  async function runUntil(stopAt: number) {
    const controller = new AbortController()
    const progress = {
      step: ({ step }: { step: number }) => {
        if (step === stopAt) controller.abort()
      },
    }
    await runStage({
      config: checkConfig(config, stageConfigSchema, 'full.json'),
      signal: controller.signal,
      progress,
    })
  }
})

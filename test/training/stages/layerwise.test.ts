import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openWeights } from '../../../src/checkpoint/weights.ts'
import { loadBase } from '../../../src/clara/base.ts'
import { type CompressorConfig, compressorConfig } from '../../../src/clara/config.ts'
import { claraTokens } from '../../../src/clara/prompts.ts'
import { createRandom } from '../../../src/data/random.ts'
import { float32, type HostTensor } from '../../../src/graph/dtype.ts'
import { initialAdapter } from '../../../src/lora/adapters.ts'
import { openRuntime, type Runtime } from '../../../src/runtime/runtime.ts'
import { loadTokenizer } from '../../../src/tokenizer/load.ts'
import { openStage1Layerwise } from '../../../src/training/stages/layerwise.ts'
import { answerSample, encodeText, type SampleOptions } from '../../../src/training/stages/samples.ts'
import {
  openStage1,
  openStage1Evaluation,
  type Stage1ModelOptions,
  type StageBatch,
} from '../../../src/training/stages/stage1.ts'

const fixtures = fileURLToPath(new URL('../../fixtures/parity', import.meta.url))
const RATE = 4
const DOC_MAX_LENGTH = 24

let runtime: Runtime
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
})
afterAll(() => runtime.close())

/** A model with random adapters and a batch of three documents and two prompts, one of which reads two of them. */
async function setUp(
  architecture: string,
  compressor: CompressorConfig,
  dropout: number,
): Promise<{ options: Stage1ModelOptions; batch: StageBatch }> {
  const folder = join(fixtures, architecture, 'base')
  const memoryInInput = compressor.memory === 'tokens'
  const fixedCount = DOC_MAX_LENGTH / RATE
  const tokens = { count: fixedCount, differentMemTokens: memoryInInput }
  const baseTokenizer = await loadTokenizer(folder)
  const tokenizer = baseTokenizer.withAddedTokens(claraTokens(tokens))
  await using source = await openWeights(folder)
  const base = await loadBase(source, {
    baseVocabulary: baseTokenizer.vocabularySize,
    vocabulary: tokenizer.vocabularySize,
  })
  const random = createRandom(7)
  const lora = { rank: 4, alpha: 8 }
  const parameters = new Map<string, HostTensor>([
    ...initialAdapter(base.config, lora, 'encoder_adapter', random.uniform, compressor.compressorLayers),
    ...initialAdapter(base.config, lora, 'decoder_adapter', random.uniform),
  ])
  // a new adapter's B is zero, which would leave A without gradient
  for (const { data } of parameters.values())
    data.forEach((_, index) => {
      data[index] = 0.1 * random.normal()
    })
  const hidden = base.config.hidden_size
  const memoryTokens = memoryInInput ? fixedCount : 1
  const noise = (count: number) => Float32Array.from({ length: count }, () => 0.3 * random.normal())
  if (memoryInInput)
    parameters.set('memory_tokens.weight', float32(noise(memoryTokens * hidden), [memoryTokens, hidden]))
  else {
    parameters.set('salient.alpha', float32([0.1], [1]))
    parameters.set('salient.beta', float32([1.5], [1]))
    parameters.set('salient.weight', float32(noise(hidden), [hidden, 1]))
  }
  const samples: SampleOptions = {
    tokenizer,
    docMaxLength: DOC_MAX_LENGTH,
    memoryCount: (length) => (compressor.proportional ? Math.max(1, Math.ceil(length / RATE)) : fixedCount),
    differentMemTokens: tokens.differentMemTokens,
    memoryInInput,
    maxLength: 256,
    questionsPerRow: 4,
  }
  const documents = [
    'The bridges were closed while a film was shot in the city.',
    'Rain fell for nine days and the river rose.',
    'A short one.',
  ].map((text) => encodeText(text, samples))
  const questions = [
    { question: 'What was closed?', answer: 'The bridges.' },
    { question: 'For how long did it rain?', answer: 'For nine days.' },
  ]
  const first = answerSample(documents.slice(0, 2), questions, samples, 0)
  const second = answerSample(documents.slice(2), questions.slice(0, 1), samples, 2)
  const options: Stage1ModelOptions = {
    runtime,
    base,
    lora,
    pooling: { config: compressor, fixedCount, idf: noise(tokenizer.vocabularySize) },
    memoryTokens,
    firstMemoryToken: baseTokenizer.vocabularySize,
    padId: tokenizer.padId,
    positions: 256,
    dropout,
    mseWeight: 0.1,
    parameters,
  }
  return { options, batch: { documents, rows: [first.row, second.row], rate: RATE } }
}

/** The largest difference, relative to the largest value expected. */
function relativeError(actual: Float32Array | undefined, expected: Float32Array): number {
  const largest = expected.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
  const difference = expected.reduce(
    (most, value, index) => Math.max(most, Math.abs(value - (actual?.[index] ?? Number.NaN))),
    0,
  )
  return difference / largest
}

const tokens = compressorConfig.parse({ memory: 'tokens' })
const salient = compressorConfig.parse({
  memory: 'salient',
  compressorLayers: 2,
  attention: 'bidirectional',
  memoryNorm: true,
  proportional: true,
  similarity: 'maxsim',
})

describe.each(['mistral-1', 'llama-3'])('stage 1 one layer at a time, %s', (architecture) => {
  test.each([
    { memory: 'tokens', config: tokens, dropout: 0 },
    { memory: 'tokens', config: tokens, dropout: 0.2 },
    { memory: 'salient', config: salient, dropout: 0 },
    { memory: 'salient', config: salient, dropout: 0.2 },
  ])('has the loss and gradients of the whole graph: memory $memory, dropout $dropout', async ({ config, dropout }) => {
    const { options, batch } = await setUp(architecture, config, dropout)
    const whole = await openStage1(options)
    // fewer than the batch has, and no divisor of their number
    const layerwise = await openStage1Layerwise(options, { labelsAtOnce: 7 })
    const gradientOptions = { normaliser: 30, share: 0.5, seed: 11 }
    const expected = await whole.lossAndGradients(batch, gradientOptions)
    const actual = await layerwise.lossAndGradients(batch, gradientOptions)

    expect(Math.abs(actual.loss - expected.loss) / expected.loss).toBeLessThan(1e-6)
    expect(Object.keys(actual.terms)).toEqual(Object.keys(expected.terms))
    for (const [name, term] of Object.entries(expected.terms)) expect(actual.terms[name]).toBeCloseTo(term, 5)
    expect([...actual.gradients.keys()]).toEqual([...expected.gradients.keys()])
    expect([...layerwise.parameters.keys()]).toEqual([...whole.parameters.keys()])
    const errors = [...expected.gradients].map(([name, values]) => ({
      name,
      size: values.reduce((most, value) => Math.max(most, Math.abs(value)), 0),
      error: relativeError(actual.gradients.get(name), values),
    }))
    expect(errors.filter(({ size }) => !(size > 0))).toEqual([])
    expect(errors.filter(({ error }) => !(error < 1e-5))).toEqual([])
    await whole.close()
    await layerwise.close()
  })

  test('evaluates as the whole graph does, dropout or not', async () => {
    const { options, batch } = await setUp(architecture, salient, 0.2)
    const whole = await openStage1Evaluation(options)
    const layerwise = await openStage1Layerwise(options)
    const expected = await whole.loss(batch)
    expect(Math.abs((await layerwise.loss(batch)) - expected) / expected).toBeLessThan(1e-6)
    await whole.close()
    await layerwise.close()
  })
})

import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { openRuntime, type Runtime } from '../../../src/runtime/runtime.ts'
import { openStage1Layerwise } from '../../../src/training/stages/layerwise.ts'
import { answerSample, encodeText } from '../../../src/training/stages/samples.ts'
import { openStage1 } from '../../../src/training/stages/stage1.ts'
import { tinyModel, tinyTexts } from '../../clara/tiny.ts'
import { families } from '../../model/families.ts'

let runtime: Runtime
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
})
afterAll(() => runtime.close())

describe.each([
  'llama with every bias',
  'qwen3 with biases, wide heads and a window in its middle layer',
  'phi3 with longrope on a part of each head',
] as const)('stage 1 one layer at a time, %s', (name) => {
  const config = families[name]

  test('has the loss and gradients of the whole graph', async () => {
    const { options, samples, rate } = await tinyModel(runtime, { config, differentMemTokens: true, dropout: 0.2 })
    const documents = tinyTexts.map((text) => encodeText(text, samples))
    const questions = [
      { question: 'What was closed?', answer: 'The bridges.' },
      { question: 'For how long did it rain?', answer: 'For nine days.' },
    ]
    const { row } = answerSample(documents, questions, samples, 0)
    const batch = { documents, rows: [row], rate }
    const whole = await openStage1(options)
    const layerwise = await openStage1Layerwise(options, { labelsAtOnce: 7 })
    const gradientOptions = { normaliser: 30, share: 1, seed: 11 }
    const expected = await whole.lossAndGradients(batch, gradientOptions)
    const actual = await layerwise.lossAndGradients(batch, gradientOptions)
    await whole.close()
    await layerwise.close()

    expect(Math.abs(actual.loss - expected.loss) / expected.loss).toBeLessThan(1e-6)
    expect([...actual.gradients.keys()]).toEqual([...expected.gradients.keys()])
    for (const [name, values] of expected.gradients) {
      const largest = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0)
      const found = actual.gradients.get(name)
      const error = values.reduce((most, value, at) => Math.max(most, Math.abs(value - (found?.[at] ?? Number.NaN))), 0)
      expect(largest, name).toBeGreaterThan(0)
      expect(error / largest, name).toBeLessThan(1e-5)
    }
  })
})

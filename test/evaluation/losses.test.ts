import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { fixedWidth } from '../../src/clara/batch.ts'
import { loraSize, memoryLength } from '../../src/clara/config.ts'
import { type ClaraModel, loadModel } from '../../src/clara/model.ts'
import { compared } from '../../src/evaluation/compared.ts'
import { openAnswerLosses } from '../../src/evaluation/losses.ts'
import { readerQuestions } from '../../src/evaluation/reader.ts'
import { openRuntime } from '../../src/runtime/runtime.ts'
import { controlBatches, meanLoss } from '../../src/training/stages/evaluation.ts'
import { stageTools } from '../../src/training/stages/material.ts'
import { packRun } from '../../src/training/stages/pack.ts'
import { runStage } from '../../src/training/stages/run.ts'
import { openStage1Evaluation } from '../../src/training/stages/stage1.ts'
import { salient, type TinyData, tinyData } from '../training/stages/tiny-run.ts'

let data: TinyData
let model: ClaraModel
beforeAll(async () => {
  data = await tinyData()
  const output = join(data.folder, 'run')
  await runStage({ config: data.config({ output, steps: 3, compressor: salient, learningRate: 0.05 }) })
  const modelFolder = join(data.folder, 'model')
  await packRun({ runFolder: output, modelFolder, which: 'last' })
  model = await loadModel(modelFolder)
})
afterAll(() => data[Symbol.asyncDispose]())

test('are those that training evaluates with, in every mode and at every rate', async () => {
  const words = ['red', 'green', 'blue', 'black', 'white']
  const records = words.map((word, index) => ({
    id: `${index}`,
    text: `It was ${word} all day long.`,
    qa: [{ question: `Which ${index}?`, answers: [word] }],
  }))
  const file = await data.write('losses.jsonl', records.map((record) => `${JSON.stringify(record)}\n`).join(''))
  const questions = await readerQuestions(file, 5, model)
  expect(questions.map(({ answer }) => answer)).toEqual(words)

  await using runtime = await openRuntime({ threads: 1 })
  const { config, base, idf, tokenizer, memoryTokens, firstMemoryToken, parameters } = model
  const fixedCount = memoryLength(config)
  const evaluation = await openStage1Evaluation({
    runtime,
    base,
    lora: loraSize(config),
    pooling: {
      config: config.compressor,
      fixedCount,
      idf,
      width: fixedWidth(base.config, config.doc_max_length, fixedCount),
    },
    memoryTokens,
    firstMemoryToken,
    padId: tokenizer.padId,
    positions: 512,
    dropout: 0,
    mseWeight: 0,
    parameters,
  })
  const tools = await stageTools(data.config({ compressor: salient, maxLength: 600 }))
  await using losses = await openAnswerLosses(model, 1)
  for (const rate of [4, 2]) {
    const controls = await controlBatches(file, 5, tools.optionsAt(rate), rate)
    for (const [mode, batches] of [
      ['memory', controls.right],
      ['wrongMemory', controls.wrong],
      ['noMemory', controls.none],
      ['fullText', controls.text],
    ] as const) {
      const expected = await meanLoss(batches, evaluation.loss)
      expect(expected).toBeGreaterThan(1)
      const found = await losses.mean(mode, questions, { rate })
      expect(Math.abs(found - expected), mode).toBeLessThan(1e-5 * expected)
    }
  }
  const stopped = losses.mean('memory', questions, { rate: 4, signal: AbortSignal.abort() })
  await expect(stopped).rejects.toThrow(/abort/i)
})

test('say by what share memory does better than nothing, of what the text does better', () => {
  const found = [
    { mode: 'memory', rate: 4, figure: 1 },
    { mode: 'wrongMemory', rate: 4, figure: 9 },
    { mode: 'memory', rate: 16, figure: 3 },
    { mode: 'wrongMemory', rate: 16, figure: 8 },
    { mode: 'noMemory', rate: undefined, figure: 2.5 },
    { mode: 'fullText', rate: undefined, figure: 0.5 },
  ] as const
  expect(compared(7, found, (loss) => loss)).toEqual({
    questions: 7,
    memory: { '4x': 1, '16x': 3 },
    wrongMemory: { '4x': 9, '16x': 8 },
    noMemory: 2.5,
    fullText: 0.5,
    kept: { '4x': 0.75, '16x': -0.25 },
  })
  expect(() => compared(7, found.slice(0, 5), (loss) => loss)).toThrow(/was not measured/)
})

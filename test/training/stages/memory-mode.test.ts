import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { readMetrics } from '../../../src/training/metrics.ts'
import { stageConfigSchema } from '../../../src/training/stages/config.ts'
import { openStage1Layerwise } from '../../../src/training/stages/layerwise.ts'
import { runStage } from '../../../src/training/stages/run.ts'

vi.mock('../../../src/training/stages/layerwise.ts', { spy: true })

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'memory-mode-'))
  const passages = ['The river rose for nine days.', 'A bridge was closed in May.', 'Snow fell on the hills.'].map(
    (text, index) => ({ id: `p${index}`, text, qa: [{ question: 'What happened?', answers: [text.slice(0, 8)] }] }),
  )
  await writeFile(join(folder, 'passages.jsonl'), passages.map((passage) => `${JSON.stringify(passage)}\n`).join(''))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

/** Loss figures of a run of two steps over three passages, evaluation included. */
async function lossesOf(name: string, memoryMode?: 'fast' | 'saving'): Promise<(number | null | undefined)[]> {
  const data = [{ file: join(folder, 'passages.jsonl'), task: 'answer' }]
  const config = stageConfigSchema.parse({
    stage: 'stage1',
    output: join(folder, name),
    base: fileURLToPath(new URL('../../fixtures/parity/llama-3/base', import.meta.url)),
    steps: 2,
    batchSize: 2,
    threads: 1,
    docMaxLength: 16,
    differentMemTokens: true,
    compressionRates: [4],
    maxLength: 128,
    lora: { rank: 4, dropout: 0.1 },
    documents: { maximum: 1 },
    data,
    evaluation: { every: 1, samples: 2, data },
    ...(memoryMode ? { memoryMode } : {}),
  })
  await runStage({ config })
  const lines = await readMetrics(config.output)
  return lines.flatMap(({ values }) => [values['loss'], values['lossWrongMemory'], values['lossFullText']])
}

test("a run with memoryMode 'saving' goes one layer at a time and learns what a fast run learns", async () => {
  const fast = await lossesOf('fast')
  expect(openStage1Layerwise).not.toHaveBeenCalled()
  const saving = await lossesOf('saving', 'saving')
  expect(openStage1Layerwise).toHaveBeenCalledTimes(1)
  expect(fast.filter((loss) => typeof loss === 'number').length).toBeGreaterThanOrEqual(8)
  expect(saving.length).toBe(fast.length)
  for (const [index, loss] of fast.entries()) {
    if (typeof loss === 'number') expect(saving[index]).toBeCloseTo(loss, 4)
    else expect(saving[index]).toBe(loss)
  }
})

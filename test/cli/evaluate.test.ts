import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { verbs } from '../../src/cli/verbs.ts'
import type { EvaluationReport } from '../../src/evaluation/report.ts'
import { packRun } from '../../src/training/stages/pack.ts'
import { runStage } from '../../src/training/stages/run.ts'
import { tinyBase } from '../clara/tiny.ts'
import { salient, type TinyData, tinyData } from '../training/stages/tiny-run.ts'
import { fakeVerb, runClara } from './fakes.ts'

let data: TinyData
const at = (name: string) => join(data.folder, name)

/** Trains a tiny run and makes a model folder of it. */
async function trained(name: string, changes: Record<string, unknown>): Promise<string> {
  const output = at(`${name}-run`)
  await runStage({ config: data.config({ output, steps: 2, compressor: salient, learningRate: 0.05, ...changes }) })
  await packRun({ runFolder: output, modelFolder: at(name), which: 'last' })
  return at(name)
}

beforeAll(async () => {
  data = await tinyData()
  vi.stubEnv('CLARA_CACHE', at('cache'))
  await trained('compressor', {})
  const start = { initialise: at('compressor-run') }
  const control = { ...start, data: [{ file: at('passages.jsonl'), task: 'answer' }], maxLength: 600 }
  await trained('text', { ...control, background: 'text' })
  await trained('empty', { ...control, background: 'empty' })
  await trained('model', {
    ...start,
    stage: 'stage2_pretrain_retrieval',
    data: [{ file: at('pools.jsonl'), task: 'answer' }],
    memoryCache: at('memory'),
  })
})
afterAll(async () => {
  vi.unstubAllEnvs()
  await data[Symbol.asyncDispose]()
})

const evaluate = (...words: string[]) =>
  runClara(['evaluate', at('passages.jsonl'), '--threads', '1', '--questions', '4', ...words], fakeVerb(), { verbs })

async function report(...words: string[]): Promise<EvaluationReport & { stderr: string }> {
  const { status, stdout, stderr } = await evaluate(...words, '--json')
  expect({ status, stderr }).toEqual({ status: 0, stderr: expect.not.stringContaining('clara:') })
  return { ...JSON.parse(stdout), stderr }
}

describe('clara evaluate', () => {
  const pools = () => at('pools.jsonl')
  const rates = ['--rates', '4', '--rates', '2']
  const readers = () => ['--text-reader', at('text'), '--empty-reader', at('empty')]

  test('measures every ratio and control on the same questions, and tells how far it is', async () => {
    const files = ['--losses', pools(), '--retrieval', pools()]
    const { answers, losses, retrieval, stderr, ...facts } = await report(
      '--model',
      at('model'),
      ...rates,
      ...files,
      ...readers(),
    )
    expect(facts).toMatchObject({
      file: at('passages.jsonl'),
      stage: 'stage2_pretrain_retrieval',
      weights: 'int8',
      readers: { fullText: at('text'), noMemory: at('empty') },
    })
    expect(Object.keys(losses ?? {})).toEqual([at('passages.jsonl'), pools()])
    // in pools.jsonl the answers to three questions lie past what is read
    expect(Object.values(losses ?? {}).map(({ questions }) => questions)).toEqual([4, 3])
    for (const { memory, wrongMemory, noMemory, fullText, kept } of Object.values(losses ?? {})) {
      for (const figures of [memory, wrongMemory, kept]) expect(Object.keys(figures)).toEqual(['4x', '2x'])
      for (const rate of ['4x', '2x']) {
        const share = ((memory[rate] ?? 0) - noMemory) / (fullText - noMemory)
        expect(kept[rate]).toBeCloseTo(share, 12)
      }
    }
    expect(answers).toMatchObject({ questions: 4, memory: { '4x': { questions: 4 }, '2x': {} } })
    for (const rate of ['4x', '2x']) {
      const { queryReasoner, compressor, bm25 } = retrieval?.[pools()]?.[rate] ?? {}
      expect(queryReasoner).not.toEqual(undefined)
      for (const scores of [queryReasoner, compressor, bm25]) {
        for (const score of Object.values(scores ?? {})) expect(score).toBeGreaterThanOrEqual(0)
        expect(scores?.meanReciprocalRank).toBeGreaterThan(0)
      }
    }
    for (const figure of [
      'answers, memory at 4x: F1',
      "answers, another's memory at 2x: F1",
      'answers, full text: F1',
      'loss, nothing: ',
      'ranking at 2x: recall@5',
    ]) {
      expect(stderr).toContain(figure)
    }

    // who reads the text and who nothing is a model like any other
    const text = await report('--model', at('text'))
    const empty = await report('--model', at('empty'))
    const [file = ''] = Object.keys(text.losses ?? {})
    expect(losses?.[file]?.fullText).toBe(text.losses?.[file]?.fullText)
    expect(losses?.[file]?.noMemory).toBe(empty.losses?.[file]?.noMemory)
    expect(answers.fullText).toEqual(text.answers.fullText)
    // and not the model that is measured
    const own = await report('--model', at('model'))
    expect(own.readers).toEqual({ fullText: 'the model', noMemory: 'the model' })
    expect(own.losses?.[file]?.memory).toEqual({ '4x': losses?.[file]?.memory['4x'] })
    expect(own.losses?.[file]?.fullText).not.toBe(losses?.[file]?.fullText)
    expect(own.losses?.[file]?.noMemory).not.toBe(losses?.[file]?.noMemory)
  })

  test('prints the tables of a model card', async () => {
    const { status, stdout } = await evaluate('--model', at('model'), '--losses', pools(), '--retrieval', pools())
    expect(status).toBe(0)
    const lines = stdout.split('\n')
    expect(lines[0]).toBe(`${at('passages.jsonl')}: 4 questions, greedy answers with int8 weights, losses at fp32`)
    const first = (line: string) => line.split('|')[1]?.trim()
    expect(lines.filter((line) => line.startsWith('|')).map(first)).toEqual([
      ...['reads', '---', 'memory at 4x', "another's memory at 4x", 'nothing', 'full text'],
      ...['answer loss', '---', pools()],
      ...['candidates of', '---', pools(), pools(), pools()],
    ])
    const figure = '(-|-?[\\d.]+)'
    expect(lines[5]).toMatch(new RegExp(`^\\| memory at 4x( \\| ${figure}){6} \\|$`))
    expect(stdout).toMatch(new RegExp(`\\| BM25 \\| ${figure} \\| ${figure} \\| ${figure} \\|\n`))
  })

  test.each(['fp32', 'fp16', 'int4'])('takes weights as %s', async (weights) => {
    const found = await report('--model', at('model'), '--weights', weights, '--no-answer-losses', '--losses', 'unread')
    expect(found).toMatchObject({ weights, answers: { questions: 4 } })
    expect(found).not.toHaveProperty('losses')
  })

  test('refuses a reader whose base has gone, before anything is measured', async () => {
    cpSync(at('text'), at('moved'), { recursive: true })
    const config = join(at('moved'), 'config.json')
    writeFileSync(config, JSON.stringify({ ...JSON.parse(readFileSync(config, 'utf8')), base: 'nowhere.gguf' }))
    const { status, stderr } = await evaluate('--model', at('model'), '--text-reader', at('moved'))
    expect(status).toBe(1)
    expect(stderr).toMatch(/^clara: The model ".*nowhere\.gguf" does not exist/)
  })

  test('refuses a reader on another base, and a file without questions', async () => {
    const base = tinyBase('llama-3')
    await trained('elsewhere', { base })
    const { status, stderr } = await evaluate('--model', at('model'), '--text-reader', at('elsewhere'))
    expect(status).toBe(1)
    expect(stderr).toMatch(/^clara: The adapters in .*elsewhere belong to another base model/)
    const unusable = await evaluate('--model', at('model'), '--losses', at('paraphrases.jsonl'))
    expect(unusable).toMatchObject({
      status: 1,
      stderr: expect.stringMatching(/paraphrases\.jsonl has fewer than two usable/),
    })
  })
})

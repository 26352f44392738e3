import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type StageConfig, stageConfigSchema } from '../../../src/training/stages/config.ts'
import { tinyBase } from '../../clara/tiny.ts'

const passages = [
  ['Oslo lies at the end of a fjord. It was founded in 1048.', 'When was Oslo founded?', '1048'],
  ['The river rose for nine days. Then a dam broke near Bergen.', 'Where did a dam break?', 'near Bergen'],
  ['Anna built a boat of oak. She sold it to a baker.', 'Who bought the boat?', 'a baker'],
  ['Snow fell on the hills in May. The roads were closed.', 'When did snow fall?', 'May'],
  ['A red fox lived under the old mill.', 'What lived under the mill?', 'A red fox'],
  ['The choir sang in Latin for an hour.', 'In which language did the choir sing?', 'Latin'],
] as const

const paraphrases = passages
  .slice(0, 3)
  .map(([text], index) => ({ text, paraphrase: `${index}: ${text.toLowerCase()}` }))

const pools = passages.map(([, question, answer], index) => ({
  id: `q${index}`,
  question,
  answers: [answer],
  candidates: passages.map(([text], other) => ({ title: `T${other}`, text, supporting: other === index })),
}))

const lines = (records: readonly unknown[]) => records.map((record) => `${JSON.stringify(record)}\n`).join('')

/** A folder with a dataset of a few sentences, gone at the end. */
export interface TinyData extends AsyncDisposable {
  readonly folder: string
  /** A run's settings as they would stand in a file. */
  settings(changes?: Record<string, unknown>): Record<string, unknown>
  config(changes?: Record<string, unknown>): StageConfig
  write(name: string, text: string): Promise<string>
}

export async function tinyData(): Promise<TinyData> {
  const folder = await mkdtemp(join(tmpdir(), 'clara-stage-'))
  const write = async (name: string, text: string) => {
    await writeFile(join(folder, name), text)
    return join(folder, name)
  }
  const answerable = passages.map(([text, question, answer], index) => ({
    id: `p${index}`,
    text,
    qa: [
      { question, answers: [answer] },
      { question: `What does text ${index} begin with?`, answers: [text.slice(0, 6)] },
    ],
  }))
  const file = await write('passages.jsonl', lines(answerable))
  await write('paraphrases.jsonl', lines(paraphrases))
  await write('pools.jsonl', lines(pools))
  const settings = (changes: Record<string, unknown> = {}) => ({
    stage: 'stage1',
    output: join(folder, 'run'),
    base: tinyBase(),
    steps: 10,
    batchSize: 3,
    threads: 1,
    seed: 5,
    embeddingSeed: 5,
    learningRate: 0.01,
    docMaxLength: 24,
    compressionRates: [4],
    maxLength: 160,
    lora: { rank: 4, dropout: 0.1 },
    documents: { maximum: 3, severalShare: 0.5 },
    data: [
      { file, task: 'answer', weight: 2 },
      { file, task: 'qa-pairs' },
      { file: join(folder, 'paraphrases.jsonl'), task: 'paraphrase' },
      { file: join(folder, 'pools.jsonl'), task: 'answer' },
    ],
    ...changes,
  })
  return {
    folder,
    settings,
    config: (changes) => stageConfigSchema.parse(settings(changes)),
    write,
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true, force: true }),
  }
}

/** Memory as the embedded model makes it, in small. */
export const salient = {
  memory: 'salient',
  compressorLayers: 2,
  attention: 'bidirectional',
  memoryNorm: true,
  proportional: true,
  similarity: 'maxsim',
} as const

import { z } from 'zod'
import { Clara } from '../../src/clara/clara.ts'
import { linearModules } from '../../src/model/config.ts'
import type { WeightKind } from '../../src/model/weight-kinds.ts'
import { runChild } from '../child.ts'
import { milliseconds } from '../measure.ts'
import { peakMiB } from '../peak.ts'

export interface LargeOptions {
  /** Folder of the model, in any layout. */
  readonly checkpoint: string
  readonly weights: WeightKind
  readonly lowMemory: boolean
  readonly threads: number
  /** Folder of the quantised weights; what is there of this model is made anew. */
  readonly cache: string
  /** Memories that the answer is written from, and its tokens. */
  readonly memories: number
  readonly newTokens: number
}

const startFigures = z.object({ loadSeconds: z.number(), peakMiB: z.number() })

const useFigures = z.object({
  ...startFigures.shape,
  documentTokens: z.number(),
  compressSeconds: z.number(),
  /** Billions of floating-point operations a second in the linear layers while compressing. */
  compressGflops: z.number(),
  promptTokens: z.number(),
  firstTokenSeconds: z.number(),
  secondsPerToken: z.number(),
  answerSeconds: z.number(),
})

export interface LargeFigures {
  readonly weights: WeightKind
  readonly lowMemory: boolean
  readonly threads: number
  readonly first: z.infer<typeof startFigures>
  readonly second: z.infer<typeof useFigures>
  /** Seconds to load at the second start over those at the first. */
  readonly secondOverFirst: number
}

/** Starts with an empty cache, then once more in another process, which also compresses a document and answers. */
export async function measureLarge(options: LargeOptions, report: (measuring: string) => void): Promise<LargeFigures> {
  report('first start')
  const first = startFigures.parse(await runChild('./large-child.ts', { ...options, use: false }))
  report('second start, compression, answer')
  const second = useFigures.parse(await runChild('./large-child.ts', { ...options, use: true }))
  const { weights, lowMemory, threads } = options
  return { weights, lowMemory, threads, first, second, secondOverFirst: second.loadSeconds / first.loadSeconds }
}

/** What one process does: load, and use where that is wanted. */
export async function loadAndUse(options: LargeOptions & { readonly use: boolean }): Promise<unknown> {
  const { checkpoint, weights, lowMemory, threads, cache } = options
  const loads: Clara[] = []
  const load = await milliseconds(async () => {
    loads.push(await Clara.load(checkpoint, { weights, lowMemory, threads, cache }))
  })
  const [loaded] = loads
  if (!loaded) throw new RangeError('Nothing was loaded.')
  await using clara = loaded
  const start = { loadSeconds: load / 1000, peakMiB: peakMiB() }
  if (!options.use) return start

  const { tokenizer, config, base } = clara.model
  const sentence = 'The old bridge was closed for nine days while the river rose. '
  const ids = tokenizer.encode(sentence.repeat(config.doc_max_length)).slice(0, config.doc_max_length)
  const document = tokenizer.decode(ids)
  let memories: Awaited<ReturnType<Clara['compressDocuments']>> = []
  const compress = await milliseconds(async () => {
    memories = await clara.compressDocuments([document])
  })
  const [memory] = memories
  if (!memory) throw new RangeError('Nothing was compressed.')
  const question = 'What was closed?'
  const read = Array.from({ length: options.memories }, () => memory)
  // what a token adds to the text is there once it is; a random model has no reason to stop early
  const begin = performance.now()
  let first: number | undefined
  for await (const _ of clara.streamAnswer(question, read, { maxNewTokens: options.newTokens })) {
    first ??= performance.now() - begin
  }
  const whole = performance.now() - begin
  const firstToken = first ?? whole
  const weightsInLayers = [...linearModules(base.config).values()].reduce((sum, [out, input]) => sum + out * input, 0)
  const positions = ids.length + memory.shape[0]
  const operations = 2 * weightsInLayers * base.config.num_hidden_layers * positions
  return {
    loadSeconds: start.loadSeconds,
    peakMiB: peakMiB(),
    documentTokens: ids.length,
    compressSeconds: compress / 1000,
    compressGflops: operations / compress / 1e6,
    promptTokens: clara.promptTokens(question, { memories: read }),
    firstTokenSeconds: firstToken / 1000,
    secondsPerToken: (whole - firstToken) / 1000 / Math.max(1, options.newTokens - 1),
    answerSeconds: whole / 1000,
  }
}

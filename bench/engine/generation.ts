import { Clara } from '../../src/clara/clara.ts'
import type { InferenceRole } from '../../src/clara/inference.ts'
import type { ClaraModel } from '../../src/clara/model.ts'
import { answerPrompt, documentSlot, promptIds } from '../../src/clara/prompts.ts'
import { openGenerator } from '../../src/clara/roles.ts'
import type { Continuation } from '../../src/model/generate.ts'
import type { Runtime } from '../../src/runtime/runtime.ts'
import { inTurn, median } from '../measure.ts'
import { readProbe } from './machine.ts'
import type { EngineSizes } from './sizes.ts'

export interface DecodeFigures {
  /** Bytes of weights read a second over what a plain sum reads. */
  readonly bandwidthShare: number
  readonly tokensPerSecond: number
  readonly mebibytesPerToken: number
  readonly readGigabytesPerSecond: number
}

export interface DecodeOptions {
  readonly question: string
  readonly documents: readonly string[]
  readonly sizes: Pick<EngineSizes, 'newTokens' | 'readMebibytes'>
  readonly repetitions: number
}

/** How fast the generator writes one answer after a prompt that holds the documents as memory, with int8 weights. */
export async function measureDecode(
  runtime: Runtime,
  model: ClaraModel,
  options: DecodeOptions,
): Promise<DecodeFigures> {
  const { repetitions } = options
  const { newTokens, readMebibytes } = options.sizes
  const ids = memoryPrompt(model, options)
  const { generator, weights } = await openGenerator(model, runtime, 'int8', ids.length + newTokens)
  const bytesPerToken = bytesRead(weights)
  await using _ = generator
  const prompts = Array.from({ length: repetitions + 1 }, () => generator.start([{ ids }]))
  const continuations = (await Promise.all(prompts)).values()
  await using probe = await readProbe(runtime, readMebibytes)
  const times = await inTurn(repetitions, {
    tokens: () => write(continuations.next().value, newTokens),
    read: probe.run,
  })
  const tokensPerSecond = (newTokens * 1000) / median(times.tokens)
  const bandwidth = (probe.work * 1000) / Math.min(...times.read)
  return {
    bandwidthShare: (bytesPerToken * tokensPerSecond) / bandwidth,
    tokensPerSecond,
    mebibytesPerToken: bytesPerToken / 2 ** 20,
    readGigabytesPerSecond: bandwidth / 1e9,
  }
}

/** A prompt with as many memory tokens as the documents have; which memory stands there costs the same. */
function memoryPrompt({ tokenizer, config }: ClaraModel, { question, documents }: DecodeOptions): number[] {
  const slots = documents.map((text) => {
    const count = Math.ceil(tokenizer.encode(text).length / config.compr_rate)
    return documentSlot({ count, differentMemTokens: config.different_mem_tokens })
  })
  return promptIds(tokenizer, answerPrompt(question, slots))
}

async function drain(pieces: AsyncIterable<unknown>): Promise<void> {
  for await (const _ of pieces);
}

/** Greedy, whatever the text says. */
async function write(continuation: Continuation | undefined, tokens: number): Promise<void> {
  if (!continuation) throw new RangeError('There is no prompt left to continue.')
  for (let index = 0; index < tokens; index++) {
    const logits = continuation.logits[0] ?? new Float32Array()
    await continuation.append([logits.reduce((best, value, token) => (value > (logits[best] ?? 0) ? token : best), 0)])
  }
}

/**
 * Bytes of all weights that a token is multiplied with: the quantised ones with their scales, and the normalisations. Their
 * float32 originals are there, but not read; of the embedding a single row is.
 */
function bytesRead(weights: InferenceRole['weights']): number {
  let bytes = 0
  for (const [name, { data }] of weights) {
    if (!name.endsWith('.weight') || name.endsWith('norm.weight')) bytes += data.byteLength
  }
  return bytes
}

export interface FirstTokenFigures {
  readonly promptTokens: { readonly text: number; readonly memory: number }
  /** Milliseconds until the first token of an answer, over the documents' text and over their memory, compressed before. */
  readonly milliseconds: { readonly text: number; readonly memory: number }
}

/** What a question over some documents waits for its answer's first token. */
export async function measureFirstToken(
  model: ClaraModel,
  options: Pick<DecodeOptions, 'question' | 'documents' | 'repetitions'> & { readonly threads: number },
): Promise<FirstTokenFigures> {
  const { question, documents, threads } = options
  await using clara = await Clara.open(model, { threads })
  const memories = await clara.compressDocuments(documents)
  const first = { maxNewTokens: 1 }
  const times = await inTurn(options.repetitions, {
    text: () => drain(clara.streamFullTextAnswer(question, documents, first)),
    memory: () => drain(clara.streamAnswer(question, memories, first)),
  })
  return {
    promptTokens: {
      text: clara.promptTokens(question, { documents }),
      memory: clara.promptTokens(question, { memories }),
    },
    milliseconds: { text: median(times.text), memory: median(times.memory) },
  }
}

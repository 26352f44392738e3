import { loadModel } from '../../src/clara/model.ts'
import { loadJsonLines } from '../../src/data/jsonl.ts'
import { passageSchema } from '../../src/data/schemas.ts'
import { openRuntime } from '../../src/runtime/runtime.ts'
import { loadTokenizer } from '../../src/tokenizer/load.ts'
import type { Tokenizer } from '../../src/tokenizer/types.ts'
import { type CompressorFigures, measureCompressor } from './compressor.ts'
import { type DecodeFigures, type FirstTokenFigures, measureDecode, measureFirstToken } from './generation.ts'
import { type MemoryFigures, measureMemory } from './memory.ts'
import { publishedConfiguration } from './models.ts'
import type { EngineSizes } from './sizes.ts'
import { measureTraining, type TrainingFigures } from './training.ts'

export interface EngineOptions {
  /** The base model: a .gguf file or a Hugging Face folder. */
  readonly base: string
  /** Folder with its tokenizer.json. */
  readonly tokenizer: string
  /** Model folder of the default configuration. */
  readonly model: string
  /** JSON lines of real passages. */
  readonly passages: string
  readonly threads: number
  /** Rounds of each measurement. */
  readonly repetitions: number
  readonly sizes: EngineSizes
}

/** All figures of the engine, as `npm run bench -- engine --json` prints them. docs/benchmarks.md says what each is. */
export interface EngineFigures {
  readonly threads: number
  readonly peakGflops: number
  readonly training: TrainingFigures
  /** The published configuration, and beside it the default one. */
  readonly compressor: CompressorFigures & { readonly default: CompressorFigures }
  readonly decode: DecodeFigures
  readonly firstToken: FirstTokenFigures
  readonly memory: MemoryFigures
}

/**
 * @param report Told what is being measured, for people who wait.
 */
export async function measureEngine(
  options: EngineOptions,
  report: (measuring: string) => void,
): Promise<EngineFigures> {
  const { base, threads, repetitions, sizes } = options
  report('memory of training')
  const memory = await measureMemory({ base, sizes: sizes.training, threads })

  const documents = await realDocuments(options)
  const model = await loadModel(options.model)
  const published = await publishedConfiguration({
    base,
    tokenizer: options.tokenizer,
    trained: model,
    docMaxLength: sizes.documentTokens,
    comprRate: sizes.comprRate,
  })
  report('compressor, published configuration')
  const compressor = await measureCompressor(published, { documents, threads, repetitions })
  report('compressor, default configuration')
  const byDefault = await measureCompressor(model, { documents, threads, repetitions })

  const asked = { question: 'What do these documents say?', documents: documents.slice(0, sizes.documentsPerQuestion) }
  report('first token')
  const firstToken = await measureFirstToken(model, { ...asked, threads, repetitions })
  await using runtime = await openRuntime({ threads })
  report('writing an answer')
  const decode = await measureDecode(runtime, model, { ...asked, sizes, repetitions })
  report('training')
  const training = await measureTraining(runtime, {
    base,
    sizes: sizes.training,
    matmulSize: sizes.matmul,
    repetitions,
  })
  return { threads, ...training, compressor: { ...compressor, default: byDefault }, decode, firstToken, memory }
}

/** Real passages, each cut to the same number of tokens; shorter ones are passed over. */
async function realDocuments({ passages, tokenizer: folder, sizes }: EngineOptions): Promise<string[]> {
  const tokenizer = await loadTokenizer(folder)
  const documents: string[] = []
  for (const { text } of await loadJsonLines(passages, passageSchema)) {
    const document = cutToTokens(tokenizer, text, sizes.documentTokens)
    if (document !== undefined) documents.push(document)
    if (documents.length === sizes.documents) break
  }
  return documents
}

function cutToTokens(tokenizer: Tokenizer, text: string, length: number): string | undefined {
  const ids = tokenizer.encode(text)
  return ids.length < length ? undefined : tokenizer.decode(ids.slice(0, length))
}

import { type EncodedDocument, type GeneratorRow, packPrompts } from '../clara/batch.ts'
import { loraSize, memoryLength } from '../clara/config.ts'
import type { ClaraModel } from '../clara/model.ts'
import { fullTextPrompt, noMemoryPrompt, trainingPrompt } from '../clara/prompts.ts'
import { poolingOf } from '../clara/roles.ts'
import { openRuntime } from '../runtime/runtime.ts'
import { openReadingEvaluation } from '../training/stages/reading.ts'
import { answerSample, encodeText, type SampleOptions } from '../training/stages/samples.ts'
import { openStage1Evaluation, type Stage1ModelOptions } from '../training/stages/stage1.ts'
import { otherQuestion, type ReaderMode, type ReaderQuestion } from './reader.ts'

/** Teacher-forced losses of one model's answers, at fp32. */
export interface AnswerLosses extends AsyncDisposable {
  /**
   * Mean negative log-likelihood of all tokens of the answers and of what ends them, in nats.
   * @param options `rate`: text positions per memory token.
   */
  mean(mode: ReaderMode, questions: readonly ReaderQuestion[], options: MeanLossOptions): Promise<number>
}

export interface MeanLossOptions {
  readonly rate: number
  readonly signal?: AbortSignal | undefined
  readonly progress?: (done: number, all: number) => void
}

/** Prompts with their answers are cut to this many tokens. */
const LONGEST_PROMPT = 2048
/** Questions in one batch. */
const BATCH = 8

/** Opens a model's losses. A graph is opened when it is first needed: full text alone needs no compressor. */
export async function openAnswerLosses(model: ClaraModel, threads?: number): Promise<AnswerLosses> {
  const runtime = await openRuntime(threads === undefined ? {} : { threads })
  const options = { ...shapeOf(model), runtime, parameters: model.parameters }
  let withMemory: ReturnType<typeof openStage1Evaluation> | undefined
  let alone: ReturnType<typeof openReadingEvaluation> | undefined

  return {
    async mean(mode, questions, { rate, signal, progress }) {
      const samples = sampleOptions(model, rate)
      const reads = mode === 'memory' || mode === 'wrongMemory'
      let sum = 0
      let labels = 0
      for (let start = 0; start < questions.length; start += BATCH) {
        signal?.throwIfAborted()
        const documents: EncodedDocument[] = []
        const rows = questions.slice(start, start + BATCH).map((own, index) => {
          if (!reads) return plainRow(own, mode === 'fullText', samples)
          const shown = mode === 'memory' ? own : otherQuestion(questions, start + index)
          const encoded = shown.documents.map((text) => encodeText(text, samples))
          const { row } = answerSample(encoded, [own], samples, documents.length)
          documents.push(...encoded)
          return row
        })
        const count = rows.reduce((total, row) => total + row.labels.length, 0)
        if (reads) {
          withMemory ??= openStage1Evaluation(options)
          sum += (await (await withMemory).loss({ documents, rows, rate })) * count
        } else {
          alone ??= openReadingEvaluation(options)
          sum += (await (await alone).loss({ memories: [], rows })) * count
        }
        labels += count
        progress?.(Math.min(start + BATCH, questions.length), questions.length)
      }
      return sum / labels
    },
    [Symbol.asyncDispose]: () => runtime.close(),
  }
}

/** The answer behind the documents' text, or behind an empty background. */
function plainRow(
  { question, answer, documents }: ReaderQuestion,
  withText: boolean,
  { tokenizer, maxLength }: SampleOptions,
): GeneratorRow {
  const messages = withText ? fullTextPrompt(question, documents) : noMemoryPrompt(question)
  return packPrompts([trainingPrompt(tokenizer, messages, answer, maxLength)], [])
}

function sampleOptions({ config, tokenizer }: ClaraModel, rate: number): SampleOptions {
  const { compressor } = config
  const fixedCount = memoryLength(config)
  return {
    tokenizer,
    docMaxLength: config.doc_max_length,
    memoryCount: (tokens) => (compressor.proportional ? Math.max(1, Math.ceil(tokens / rate)) : fixedCount),
    differentMemTokens: config.different_mem_tokens,
    memoryInInput: compressor.memory === 'tokens',
    maxLength: LONGEST_PROMPT,
    questionsPerRow: 1,
  }
}

function shapeOf(model: ClaraModel): Omit<Stage1ModelOptions, 'runtime' | 'parameters'> {
  const { config, base, tokenizer, memoryTokens, firstMemoryToken } = model
  const fixedCount = memoryLength(config)
  return {
    base,
    lora: loraSize(config),
    pooling: poolingOf(model),
    memoryTokens,
    firstMemoryToken,
    padId: tokenizer.padId,
    positions: Math.max(LONGEST_PROMPT, config.doc_max_length + fixedCount + 3),
    dropout: 0,
    mseWeight: 0,
  }
}

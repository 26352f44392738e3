import { fixedWidth } from '../clara/batch.ts'
import { loraSize, memoryLength } from '../clara/config.ts'
import type { ClaraModel } from '../clara/model.ts'
import { openRuntime } from '../runtime/runtime.ts'
import { controlBatches, meanLoss } from '../training/stages/evaluation.ts'
import { openStage1Evaluation } from '../training/stages/stage1.ts'
import type { ReaderMode } from './reader.ts'

export interface LossOptions {
  readonly file: string
  /** Passages, spread evenly over the file. */
  readonly passages: number
  /** Text positions per memory token. */
  readonly rate: number
  readonly threads?: number | undefined
}

/** Prompts with their answers are cut to this many tokens. */
const LONGEST_PROMPT = 2048

/** Mean loss of the answers' tokens in nats, teacher-forced at fp32, in each of the four modes. */
export async function answerLosses(model: ClaraModel, options: LossOptions): Promise<Record<ReaderMode, number>> {
  const { config, tokenizer, base } = model
  const fixedCount = memoryLength(config)
  const { compressor } = config
  const sampleOptions = {
    tokenizer,
    docMaxLength: config.doc_max_length,
    memoryCount: (tokens: number) =>
      compressor.proportional ? Math.max(1, Math.ceil(tokens / options.rate)) : fixedCount,
    differentMemTokens: config.different_mem_tokens,
    memoryInInput: compressor.memory === 'tokens',
    maxLength: LONGEST_PROMPT,
    questionsPerRow: 6,
  }
  const controls = await controlBatches(options.file, options.passages, sampleOptions, options.rate)
  await using runtime = await openRuntime(options.threads === undefined ? {} : { threads: options.threads })
  const evaluation = await openStage1Evaluation({
    runtime,
    base,
    lora: loraSize(config),
    pooling: {
      config: compressor,
      fixedCount,
      idf: model.idf,
      width: fixedWidth(base.config, config.doc_max_length, fixedCount),
    },
    memoryTokens: model.memoryTokens,
    firstMemoryToken: model.firstMemoryToken,
    padId: tokenizer.padId,
    positions: Math.max(LONGEST_PROMPT, config.doc_max_length + fixedCount + 3),
    dropout: 0,
    mseWeight: 0,
    parameters: model.parameters,
  })
  return {
    memory: await meanLoss(controls.right, evaluation.loss),
    wrongMemory: await meanLoss(controls.wrong, evaluation.loss),
    noMemory: await meanLoss(controls.none, evaluation.loss),
    fullText: await meanLoss(controls.text, evaluation.loss),
  }
}

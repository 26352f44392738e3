import { openRuntime } from '../../src/runtime/runtime.ts'
import { composeConfig } from '../../src/training/run-config.ts'
import { overlay, type Settings } from '../../src/training/settings.ts'
import { type StageConfig, stageConfigSchema } from '../../src/training/stages/config.ts'
import { measureInt8 } from './int8.ts'
import type { StagesSizes } from './sizes.ts'
import { measureStage2, type Stage2Figures } from './stage2.ts'

export interface StagesOptions {
  /** The base model: a .gguf file or a Hugging Face folder. */
  readonly base: string
  /** Folder with its tokenizer.json. */
  readonly tokenizer: string
  /** JSON lines of questions with candidates. */
  readonly pools: string
  /** JSON lines of passages with questions. */
  readonly passages: string
  readonly threads: number
  /** Rounds of each measurement. */
  readonly repetitions: number
  readonly sizes: StagesSizes
  /** Folder for memories. */
  readonly work: string
}

/** All figures of the group, as `npm run bench -- stages --json` prints them. docs/training.md says what each is. */
export interface StagesFigures {
  readonly threads: number
  readonly stages: {
    readonly stage2: Stage2Figures
    /** Rows a second of a stage 1 step with frozen weights in 8 bits over the same at fp32. */
    readonly int8OverFp32: number
  }
}

/** @param report Told what is being measured, for people who wait. */
export async function measureStages(
  options: StagesOptions,
  report: (measuring: string) => void,
): Promise<StagesFigures> {
  const { threads, repetitions, sizes } = options
  await using runtime = await openRuntime({ threads })
  report('stage 2 over cached memory')
  const { questions, poolSize, topK, batches } = sizes
  const stage2 = await measureStage2(runtime, {
    config: configOf(options, {
      stage: 'stage2',
      batchSize: questions,
      retrieval: { topK, poolSize },
      data: [{ file: options.pools, task: 'answer' }],
    }),
    batches,
    repetitions,
    work: options.work,
  })
  report('stage 1 with either kind of frozen weights')
  const int8OverFp32 = await measureInt8(runtime, {
    config: configOf(options, {
      stage: 'stage1',
      batchSize: sizes.rows,
      data: [{ file: options.passages, task: 'answer' }],
    }),
    batches,
    repetitions,
  })
  return { threads, stages: { stage2, int8OverFp32 } }
}

/** A run of the embedded model's configuration with fresh adapters: what they hold costs no time. */
function configOf({ base, tokenizer, threads, sizes, work }: StagesOptions, settings: Settings): StageConfig {
  const own = { ...settings, base, tokenizer, threads, preset: 'small', output: work, steps: 1000, seed: 1 }
  return composeConfig(overlay(own, sizes.settings), stageConfigSchema, 'of the benchmark')
}

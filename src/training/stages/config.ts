import { z } from 'zod'
import { compressorConfig } from '../../clara/config.ts'
import { trainingConfigSchema } from '../config.ts'

/** Settings of a run that the stages read, beside the trainer's own. */
export const stageConfigSchema = trainingConfigSchema({
  /** Base model: a .gguf file or a Hugging Face folder. */
  base: z.string().min(1),
  /** Folder with the base model's tokenizer.json. Default: the base's own. */
  tokenizer: z.string().min(1).optional(),
  /** An earlier run's folder, or a model folder: its parameters are what this run starts from. Default: fresh adapters. */
  initialise: z.string().min(1).optional(),
  /**
   * Decides the embeddings of the added tokens. A run that starts from another's parameters needs the other's value: they
   * were trained beside those embeddings.
   */
  embeddingSeed: z.number().int().nonnegative().default(0),
  /** Threads of the computation. Default: all cores. */
  threads: z.number().int().positive().optional(),
  /**
   * fast: the whole step in one graph. saving: one layer at a time, in about a third of the memory and half as long again.
   * Default: fast. Left out rather than filled in, so that runs saved without this setting still resume.
   */
  memoryMode: z.enum(['fast', 'saving']).optional(),
  /**
   * How the base model's linear layers are held while the adapters learn. int8: nearly twice the speed, both passes a little
   * rounded; evaluations stay exact. Default: fp32. Left out rather than filled in, for the same reason.
   */
  frozenWeights: z.enum(['fp32', 'int8']).optional(),
  compressor: compressorConfig.prefault({}),
  /** Longest document, in tokens. */
  docMaxLength: z.number().int().positive().default(256),
  /** Text positions per memory token; a batch draws one of these. */
  compressionRates: z.array(z.number().min(1)).min(1).default([16]),
  differentMemTokens: z.boolean().default(false),
  /** Prompts with their answers are cut to this many tokens. */
  maxLength: z.number().int().positive().default(2048),
  /** Questions over the same documents that share one row at most. */
  questionsPerRow: z.number().int().positive().default(6),
  /** How often an answer prompt holds more than one document, and how many at most. */
  documents: z
    .strictObject({
      severalShare: z.number().min(0).max(1).default(0.4),
      maximum: z.number().int().positive().default(5),
    })
    .prefault({}),
}).superRefine((config, context) => {
  const { proportional } = config.compressor
  const [first = 1, ...others] = config.compressionRates
  const wrong = (key: keyof typeof config, message: string) =>
    context.addIssue({ code: 'custom', path: [key], message })
  if (config.memoryMode === 'saving' && config.frozenWeights === 'int8') {
    wrong('frozenWeights', "int8 needs memoryMode 'fast': one layer at a time is computed in fp32")
  }
  if (config.docMaxLength < first) {
    wrong(
      'compressionRates',
      `a document of docMaxLength (${config.docMaxLength}) tokens would get no memory at rate ${first}`,
    )
  }
  if (!proportional && others.length > 0) {
    wrong(
      'compressionRates',
      'several rates need compressor.proportional: otherwise every document has the same number of memory tokens',
    )
  }
  if (config.differentMemTokens && others.some((rate) => rate < first)) {
    wrong(
      'compressionRates',
      'with differentMemTokens the smallest rate must come first: it decides how many memory tokens there are',
    )
  }
})

export type StageConfig = z.output<typeof stageConfigSchema>

import { z } from 'zod'
import { compressorConfig } from '../../clara/config.ts'
import { trainingConfigSchema } from '../config.ts'

const count = z.number().int().positive()

/** Settings of the stages that retrieve: `stage2` and `stage2_pretrain_retrieval`. */
export const retrievalSettings = z.strictObject({
  /** Documents that the generator reads. */
  topK: count.default(5),
  /** τ of the differentiable choice and of the contrastive loss. */
  temperature: z.number().positive().default(0.02),
  /** Documents that a question chooses from. */
  poolSize: count.default(20),
  /**
   * What fills a pool beside the supporting candidates. dataset: the question's other candidates. random: these, then texts of
   * other questions. mined: whichever texts the model in training takes for the nearest.
   */
  negatives: z.enum(['dataset', 'random', 'mined']).default('dataset'),
  /** Steps between minings. */
  refresh: count.default(100),
  /** Texts that a mining looks at, drawn anew each time. */
  mineAmong: count.default(2000),
  /**
   * Whether memory of questions passes a matrix of its own, which learns with the query reasoner. Where `initialise` brings none it
   * begins as the inverse covariance of the documents' memory, so that directions common to all count least.
   */
  projection: z.boolean().default(false),
  /** Whether the documents of a batch are candidates of all its questions. Default: in retrieval pretraining. */
  inBatch: z.boolean().optional(),
})
export type RetrievalSettings = z.output<typeof retrievalSettings>

/** How a generator that reads memory learns from a reader of the full text. */
const distillationSettings = z.strictObject({
  /** Weight of the divergence beside the answer's own loss. */
  weight: z.number().positive().default(1),
  /** Both distributions are taken at this temperature; the divergence is scaled by its square (Hinton et al. 2015). */
  temperature: z.number().positive().default(1),
  /** A model folder whose generator reads the text. Default: the generator in training itself, as it is at each step. */
  teacher: z.string().min(1).optional(),
})

/** Settings of a run that the stages read, beside the trainer's own. */
export const stageConfigSchema = trainingConfigSchema({
  /** Base model: a .gguf file or a Hugging Face folder. */
  base: z.string().min(1),
  /** Folder with the base model's tokenizer.json. Default: the base's own. */
  tokenizer: z.string().min(1).optional(),
  /**
   * An earlier run's folder, or a model folder: its parameters are what this run starts from; of a run that early stopping ended,
   * those of its best checkpoint, otherwise of its last. Default: fresh adapters.
   */
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
   * Where memoryMode is left out: fast if its estimate stays below so many mebibytes, else saving. Part of a run's settings, as
   * the modes differ in the last bits of a sum.
   */
  memoryBudgetMiB: z.number().positive().optional(),
  /**
   * How the base model's linear layers are held while the adapters learn. int8: nearly twice the speed, both passes a little
   * rounded; evaluations stay exact. Default: fp32. Left out rather than filled in, for the same reason.
   */
  frozenWeights: z.enum(['fp32', 'int8']).optional(),
  /** Of the parameters that `initialise` names, the generator's: taken over, or begun anew. Default: keep. */
  generator: z.enum(['keep', 'fresh']).optional(),
  /**
   * Stages 1 and 1_2: what stands in the prompts in the place of the documents. text: what the compressor would have read of
   * them; empty: nothing. Then no compressor runs and the generator alone learns, from the rows that memory would have: the
   * controls by which memory is judged. Default: memory. Left out rather than filled in, so that older runs still resume.
   */
  background: z.enum(['memory', 'text', 'empty']).optional(),
  /** Stages 2: how questions find their documents. Default: the defaults of its settings. */
  retrieval: retrievalSettings.optional(),
  /** Stages 1 and 1_2: learn from a reader of the full text. Default: not. */
  distillation: distillationSettings.optional(),
  /** Where memories of a frozen compressor are kept. Default: clara-ts/memory in the user's cache folder. */
  memoryCache: z.string().min(1).optional(),
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
  const control = !readsMemory(config)
  if (control && !isCompressorStage(config.stage)) {
    wrong('background', `the stage '${config.stage}' reads memory: only 'stage1' and 'stage1_2' can do without`)
  }
  if (!learnsCompressor(config)) {
    const who = control ? `the background '${config.background}'` : `the stage '${config.stage}'`
    if (config.memoryMode === 'saving') wrong('memoryMode', `${who} has no saving mode: use 'fast'`)
    if (config.distillation)
      wrong('distillation', "only the stages 'stage1' and 'stage1_2' distil, from text into memory")
  }
  if (config.distillation && config.memoryMode === 'saving') wrong('distillation', "needs memoryMode 'fast'")
  const { retrieval } = config
  if (retrieval && retrieval.poolSize < retrieval.topK) {
    wrong('retrieval', `a pool of ${retrieval.poolSize} documents is smaller than topK (${retrieval.topK})`)
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

/** Whether a stage is there for the compressor; in the others it is frozen, so that stored memory stays valid. */
export const isCompressorStage = (stage: StageConfig['stage']): boolean => stage === 'stage1' || stage === 'stage1_2'

/** Whether memory stands in the prompts; otherwise the run is a control. */
export const readsMemory = ({ background = 'memory' }: Pick<StageConfig, 'background'>): boolean =>
  background === 'memory'

/** Whether the compressor learns in a run. */
export const learnsCompressor = (config: Pick<StageConfig, 'stage' | 'background'>): boolean =>
  isCompressorStage(config.stage) && readsMemory(config)

/** The settings of retrieval with all defaults filled in. */
export const retrievalOf = ({ retrieval }: Pick<StageConfig, 'retrieval'>): RetrievalSettings =>
  retrieval ?? retrievalSettings.parse({})

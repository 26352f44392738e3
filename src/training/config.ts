import { readFile } from 'node:fs/promises'
import { parse as parseYaml } from 'yaml'
import { z } from 'zod'
import { ClaraError } from '../errors.ts'

/** Training stages, by the published code's names (DESIGN section 5), in the order in which they build on each other. */
export const stageNames = ['stage1', 'stage1_2', 'stage2_pretrain_retrieval', 'stage2', 'stage2_reasoning'] as const

/**
 * What a dataset file is used for. `qa-pairs`: one document's questions and answers in one prompt (stage 1). `answer`: a
 * question over one or more documents. `paraphrase`: say the document otherwise (stage 1). `auto-encoding`: repeat a text word
 * for word (stage 1, ours): any text will do, so passages without questions teach as well. `cloze`: fill gaps in what a text
 * says (stage 1, ours); any text will do here too. `keywords`: find the text that a few words are from (retrieval pretraining,
 * ours).
 */
const taskNames = ['qa-pairs', 'answer', 'paraphrase', 'auto-encoding', 'cloze', 'keywords'] as const
/** Tasks that take a file for its texts alone. */
const textTasks: readonly (typeof taskNames)[number][] = ['auto-encoding', 'cloze', 'keywords']

const dataFile = z
  .strictObject({
    /** A .jsonl or .jsonl.gz file. */
    file: z.string().min(1),
    task: z.enum(taskNames),
    /** How often this task is drawn, relative to the others. */
    weight: z.number().positive().default(1),
    /** Tasks 'auto-encoding', 'cloze' and 'keywords': files of passages or pools whose texts are left out, so that no dev text is trained on. */
    without: z.array(z.string().min(1)).optional(),
  })
  .refine(({ task, without }) => without === undefined || textTasks.includes(task), {
    path: ['without'],
    error: "only the tasks 'auto-encoding', 'cloze' and 'keywords' leave texts out",
  })
export type DataFile = z.output<typeof dataFile>

const count = z.number().int().nonnegative()
const positiveCount = z.number().int().positive()

const trainingShape = {
  stage: z.enum(stageNames).default('stage1'),
  /** Folder of the run: metrics, plot, checkpoints. */
  output: z.string().min(1),
  /** Decides data order, dropout and initial values. */
  seed: count.default(0),
  /** Optimizer updates in all; the learning rate follows this count. */
  steps: positiveCount,
  /** Stop after so many minutes of one session, with a checkpoint to resume from; the schedule does not change. */
  minutes: z.number().positive().optional(),
  /** Samples a micro-batch. */
  batchSize: positiveCount.default(8),
  /** Micro-batches an update. */
  accumulate: positiveCount.default(1),

  /** Peak learning rate. */
  learningRate: z.number().positive().default(1e-4),
  /** Factors of the learning rate by a part of the parameter's name; the longest part that occurs in the name counts. */
  learningRateFactors: z.record(z.string().min(1), z.number().nonnegative()).default({}),
  schedule: z.enum(['cosine', 'constant']).default('cosine'),
  /** Share of the steps that warms up linearly. */
  warmup: z.number().min(0).max(1).default(0.03),
  /** Where the cosine ends, as a share of the peak. */
  minimumLearningRateFactor: z.number().min(0).max(1).default(0.1),
  betas: z.tuple([z.number().min(0).lt(1), z.number().min(0).lt(1)]).default([0.9, 0.95]),
  epsilon: z.number().positive().default(1e-8),
  weightDecay: z.number().nonnegative().default(0),
  /** Greatest global gradient norm; 0 does not clip. */
  clip: z.number().nonnegative().default(1),

  lora: z
    .strictObject({
      rank: positiveCount.default(16),
      /** The adapters' output is scaled by alpha / rank; twice the rank when left out. */
      alpha: z.number().positive().optional(),
      dropout: z.number().min(0).lt(1).default(0.1),
    })
    .transform((lora) => ({ ...lora, alpha: lora.alpha ?? 2 * lora.rank }))
    .prefault({}),
  /** λ of the loss CE + λ · MSE (DESIGN section 5). */
  mseWeight: z.number().nonnegative().default(0.1),

  data: z.array(dataFile).min(1),
  evaluation: z
    .strictObject({
      /** Steps between evaluations; 0 evaluates only before and after. */
      every: count.default(200),
      /** Samples of each file. */
      samples: positiveCount.default(64),
      data: z.array(dataFile).default([]),
      /** The figure that decides which checkpoint is the best one. */
      metric: z.string().min(1).default('loss'),
      better: z.enum(['lower', 'higher']).default('lower'),
      /**
       * Early stopping: the run ends after so many evaluations in a row without a new best. Default: it runs all its steps.
       * Left out rather than filled in, so that runs saved without this setting still resume.
       */
      patience: positiveCount.optional(),
    })
    .prefault({}),
  checkpoint: z
    .strictObject({
      /** Minutes between checkpoints. */
      minutes: z.number().positive().default(5),
      /** Steps between checkpoints, beside the minutes. */
      steps: positiveCount.optional(),
      /** How many of the newest stay on disk; the best one stays as well. */
      keep: positiveCount.default(2),
    })
    .prefault({}),
}

/**
 * The schema of a training run's configuration file; unknown keys are errors. Defaults are the paper's.
 * @param extra Settings that other rooms own, for example `{ compressor: compressorSchema }`.
 */
export function trainingConfigSchema<Extra extends z.ZodRawShape>(
  extra: Extra,
): z.ZodObject<typeof trainingShape & Extra, z.core.$strict> {
  return z.strictObject({ ...trainingShape, ...extra })
}

/** A run's settings with all defaults filled in, without those of other rooms. */
export type TrainingConfig = z.output<z.ZodObject<typeof trainingShape, z.core.$strict>>

/**
 * Reads and checks a configuration file (JSON or YAML).
 * @throws ClaraError that names every wrong or unknown key.
 */
export async function readConfig<Schema extends z.ZodType>(path: string, schema: Schema): Promise<z.output<Schema>> {
  return checkConfig(await readSettings(path), schema, path)
}

/** Longest configuration file that is read, in characters. */
const LONGEST_CONFIG = 2 ** 20

/**
 * Reads a configuration file without checking what it says: YAML by the ending .yaml or .yml, otherwise JSON.
 * @throws ClaraError when it cannot be read or parsed.
 */
export async function readSettings(path: string): Promise<unknown> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (cause) {
    throw new ClaraError(`The configuration ${path} cannot be read.`, { expected: 'a JSON or YAML file', cause })
  }
  const yaml = /\.ya?ml$/i.test(path)
  if (text.length > LONGEST_CONFIG) {
    throw new ClaraError(`The configuration ${path} is too long.`, { expected: `at most ${LONGEST_CONFIG} characters` })
  }
  try {
    return yaml ? parseYaml(text) : JSON.parse(text)
  } catch (cause) {
    const [reason] = (cause as Error).message.split('\n')
    throw new ClaraError(`The configuration ${path} is not ${yaml ? 'YAML' : 'JSON'}: ${reason}.`, { cause })
  }
}

/**
 * Checks settings that are already in memory.
 * @param source Named in errors.
 */
export function checkConfig<Schema extends z.ZodType>(
  value: unknown,
  schema: Schema,
  source: string,
): z.output<Schema> {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const problems = parsed.error.issues.map((issue) => {
    const place = issue.path.join('.')
    if (issue.code !== 'unrecognized_keys') return `${place === '' ? 'the whole' : place}: ${issue.message}`
    return issue.keys.map((key) => `${place === '' ? key : `${place}.${key}`}: no such setting`).join('; ')
  })
  throw new ClaraError(`The configuration ${source} is not valid: ${problems.join('; ')}.`)
}

/** The factor that `learningRateFactors` gives a parameter. */
export function learningRateFactor(factors: Readonly<Record<string, number>>, name: string): number {
  let longest = ''
  let factor = 1
  for (const [part, value] of Object.entries(factors)) {
    if (!name.includes(part) || part.length <= longest.length) continue
    longest = part
    factor = value
  }
  return factor
}

/** Settings that change no number of the run, and so may change when it resumes. */
const freeOnResume = /^(minutes|output|checkpoint(\..*)?|evaluation\.patience)$/

/** Names of the settings that differ between two configurations and matter to a resumed run, in dotted form. */
export function differingSettings(saved: unknown, current: unknown, prefix = ''): string[] {
  if (freeOnResume.test(prefix)) return []
  if (isRecord(saved) && isRecord(current)) {
    const keys = [...new Set([...Object.keys(saved), ...Object.keys(current)])].sort()
    return keys.flatMap((key) => differingSettings(saved[key], current[key], prefix === '' ? key : `${prefix}.${key}`))
  }
  return JSON.stringify(saved) === JSON.stringify(current) ? [] : [prefix]
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

import { readFile } from 'node:fs/promises'
import { dirname, isAbsolute, join } from 'node:path'
import { z } from 'zod'
import { CANDIDATES } from '../knowledge/defaults.ts'
import { type Given, UsageError } from './arguments.ts'
import { type Flag, flagsOf } from './flags.ts'
import type { Environment } from './terminal.ts'
import { weightFlags } from './weights.ts'

/* The settings that a user gives once, in clara.config.json or in the environment, rather than with every command. */

const CONFIG_FILE = 'clara.config.json'

/** All settings; a verb takes those that are among its options. Paths are relative to the file that names them. */
export const settingsSchema = z.strictObject({
  store: z
    .string()
    .min(1)
    .default('.clara')
    .describe('Where the documents are kept: a folder, or the address of a PostgreSQL database (postgres://…)'),
  model: z
    .string()
    .optional()
    .describe('Folder of a model, or of a published checkpoint. Default: the model that comes with clara'),
  base: z
    .string()
    .optional()
    .describe("Folder of the base model. Default: where the model's configuration says, or in the Hugging Face cache"),
  ...weightFlags,
  memory: z
    .enum(['int8', 'float16'])
    .optional()
    .describe('How memory is kept in a new store. Default: int8, a quarter of the bytes'),
  topK: z
    .number()
    .int()
    .min(1)
    .optional()
    .describe("Passages that are found, or that the answer is written from. Default: the model's own number"),
  mode: z
    .enum(['hybrid', 'latent', 'text'])
    .default('hybrid')
    .describe('How passages are found: in latent space, by words, or both'),
  candidates: z
    .number()
    .int()
    .min(1)
    .default(CANDIDATES)
    .describe("Passages that the model's own score is computed of"),
  minScore: z
    .number()
    .optional()
    .describe('Leave out passages that score less; when none is left, nothing relevant was found. Default: none is'),
  expand: z
    .string()
    .regex(/^(auto|\d+)$/, 'expected a number, or auto')
    .default('0')
    .describe('Of how many of the best passages the text is read instead of the memory, or auto'),
  maxNewTokens: z
    .number()
    .int()
    .min(1)
    .optional()
    .describe("Longest answer, in tokens. Default: the model's own limit"),
  include: z.array(z.string()).default([]).describe('In folders, read only files that match this glob'),
  exclude: z
    .array(z.string())
    .default([])
    .describe('In folders, leave out what matches this pattern, as in .gitignore'),
  hidden: z.boolean().default(false).describe('In folders, read names that begin with a dot too'),
  ignoreFiles: z
    .boolean()
    .default(true)
    .describe('Read what .gitignore, .ignore and .claraignore leave out, node_modules and lock files too'),
  followLinks: z.boolean().default(false).describe('Follow symbolic links inside folders'),
  allowNetwork: z.boolean().default(false).describe('Fetch web addresses that are named'),
  overlap: z.number().int().min(0).default(0).describe('Tokens that a passage repeats of the end of the one before'),
})

/** Settings as they were given, by the names of the schema. */
export type Settings = ReadonlyMap<string, Given>

const PATHS = ['store', 'model', 'base']

/**
 * Settings of the environment (`CLARA_STORE`, `CLARA_TOP_K`, …; lists with commas) and, where that says nothing, of the file `clara.config.json` in the current
 * folder, or the one that `CLARA_CONFIG` names.
 * @throws UsageError that names the file or variable and what is wrong with it.
 */
export async function readSettings(environment: Environment): Promise<Settings> {
  const named = environment.CLARA_CONFIG
  const path = named === undefined || named === '' ? CONFIG_FILE : named
  const settings = new Map<string, Given>()
  const content = await readFile(path, 'utf8').catch((error: unknown) => {
    const code = error instanceof Error && 'code' in error ? error.code : undefined
    if (code === 'ENOENT' && path === CONFIG_FILE) return undefined
    throw new UsageError(`The configuration file ${JSON.stringify(path)} cannot be read.`, {
      received: String(code),
      hint: 'CLARA_CONFIG names it.',
    })
  })
  if (content !== undefined) readFileSettings(path, content, settings)
  for (const flag of flagsOf({ options: settingsSchema })) {
    const name = `CLARA_${flag.name.toUpperCase().replaceAll('-', '_')}`
    const text = environment[name]
    if (text !== undefined && text !== '') settings.set(flag.key, checked(name, flag, writtenValue(flag, text)))
  }
  return settings
}

function readFileSettings(path: string, content: string, settings: Map<string, Given>): void {
  let parsed: unknown
  try {
    parsed = JSON.parse(content)
  } catch (error) {
    throw new UsageError(`${path} is not JSON.`, { received: error instanceof Error ? error.message : String(error) })
  }
  if (typeof parsed !== 'object' || parsed === null || Array.isArray(parsed))
    throw new UsageError(`${path} holds no settings.`, { expected: 'a JSON object such as { "store": "./kb" }' })
  const flags = new Map(flagsOf({ options: settingsSchema }).map((flag) => [flag.key, flag]))
  for (const [key, value] of Object.entries(parsed)) {
    const flag = flags.get(key)
    if (flag === undefined) {
      throw new UsageError(`${path}: there is no setting ${JSON.stringify(key)}.`, {
        expected: [...flags.keys()].join(', '),
      })
    }
    const given = checked(
      `${path}: ${key}`,
      flag,
      flag.kind === 'string' && typeof value === 'number' ? String(value) : value,
    )
    settings.set(key, PATHS.includes(key) ? placed(String(given), path) : given)
  }
}

/** A path of the file, as seen from the current folder. */
function placed(value: string, file: string): string {
  const folder = dirname(file)
  return folder === '.' || isAbsolute(value) || /^\w+:\/\//.test(value) ? value : join(folder, value)
}

function writtenValue(flag: Flag, text: string): unknown {
  if (flag.repeated) return text.split(',').map((part) => part.trim())
  if (flag.kind === 'number') return text.trim() === '' ? text : Number(text)
  if (flag.kind === 'boolean')
    return /^(1|true|yes|on)$/i.test(text) || (/^(0|false|no|off)$/i.test(text) ? false : text)
  return text
}

/** @param name The variable, or the file and the key. */
function checked(name: string, flag: Flag, value: unknown): Given {
  const field: z.ZodType = settingsSchema.shape[flag.key as keyof typeof settingsSchema.shape]
  const parsed = field.safeParse(value)
  if (parsed.success) return value as Given
  throw new UsageError(`${name}: ${parsed.error.issues[0]?.message ?? 'not valid'}.`, {
    received: JSON.stringify(value),
  })
}

/** The settings that a verb's options take: those whose field is the settings' own. */
export function settingsFor(options: z.ZodObject, settings: Settings): Settings {
  const fields: Readonly<Record<string, unknown>> = settingsSchema.shape
  return new Map(
    [...settings].filter(([key]) => options.shape[key] !== undefined && options.shape[key] === fields[key]),
  )
}

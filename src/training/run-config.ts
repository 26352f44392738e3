import type { z } from 'zod'
import { ClaraError } from '../errors.ts'
import { checkConfig, readSettings, stageNames, type TrainingConfig } from './config.ts'
import { presetSettings } from './presets.ts'
import { assign, isSettings, overlay, type Settings } from './settings.ts'

export interface RunConfigOptions {
  /** `path=value` each, laid over the file. */
  readonly set?: readonly string[]
  /** Name of the preset below the file; the file's own key `preset` says the same. */
  readonly preset?: string | undefined
}

/**
 * Reads the configuration of a run: the preset's settings for the stage, over them the file's (JSON or YAML), over those the
 * command line's.
 * @throws ClaraError that names every wrong or unknown setting.
 */
export async function readRunConfig<Schema extends z.ZodType>(
  path: string,
  schema: Schema,
  options: RunConfigOptions = {},
): Promise<z.output<Schema>> {
  return composeConfig(await readSettings(path), schema, path, options)
}

/** As {@link readRunConfig}, of settings in memory. @param source Named in errors. */
export function composeConfig<Schema extends z.ZodType>(
  value: unknown,
  schema: Schema,
  source: string,
  { set = [], preset: given }: RunConfigOptions = {},
): z.output<Schema> {
  if (!isSettings(value)) return checkConfig(value, schema, source)
  const { preset: own, ...file } = value
  const preset = given ?? own
  // the stage decides what a preset says, and may itself be set
  const settings = assign(file, set, schema)
  const below = preset === undefined ? {} : presetSettings(preset, stageOf(settings, source))
  return checkConfig(overlay(below, settings), schema, source)
}

function stageOf({ stage = stageNames[0] }: Settings, source: string): TrainingConfig['stage'] {
  const known = stageNames.find((name) => name === stage)
  if (known !== undefined) return known
  throw new ClaraError(`The configuration ${source} is not valid: stage: ${JSON.stringify(stage)} is no stage.`, {
    expected: `one of ${stageNames.join(', ')}`,
  })
}

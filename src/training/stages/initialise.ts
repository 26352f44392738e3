import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { BaseModel } from '../../clara/base.ts'
import { readAdapters } from '../../clara/model.ts'
import { ADAPTERS_FILE } from '../../clara/model-folder.ts'
import { EMBEDDING } from '../../clara/network.ts'
import { ClaraError } from '../../errors.ts'
import type { HostTensor } from '../../graph/dtype.ts'
import { readLastCheckpoint } from '../checkpoint.ts'

/**
 * Copies parameters over fresh ones: those of a run's last checkpoint, or of a model folder. Parameters that the source
 * lacks stay fresh.
 * @throws ClaraError when there is nothing to start from, or it does not fit.
 */
export async function takeParameters(
  folder: string,
  parameters: ReadonlyMap<string, HostTensor>,
  base: BaseModel,
): Promise<void> {
  const source = existsSync(join(folder, ADAPTERS_FILE)) ? await fromModel(folder, base) : await fromRun(folder)
  for (const [name, values] of source.parameters) {
    const target = parameters.get(name)
    if (target?.data.length !== values.length) {
      throw new ClaraError(`The parameter '${name}' in ${source.folder} does not fit this run.`, {
        hint: 'The earlier run must have the same base, rank and compressor.',
      })
    }
    ;(target.data as Float32Array).set(values)
  }
}

interface Source {
  readonly folder: string
  readonly parameters: ReadonlyMap<string, Float32Array>
}

async function fromRun(folder: string): Promise<Source> {
  const last = await readLastCheckpoint(folder)
  if (last) return last
  throw new ClaraError(`There is no checkpoint in ${folder}, so nothing to start from.`, {
    hint: "Check the setting 'initialise'.",
  })
}

async function fromModel(folder: string, base: BaseModel): Promise<Source> {
  const { parameters, specialRows } = await readAdapters(folder)
  const table = base.weights.get(EMBEDDING)?.data as Float32Array
  const own = table.subarray(table.length - specialRows.length)
  // the folder holds them as float16
  if (specialRows.some((value, index) => Math.abs(value - (own[index] ?? 0)) > 1e-3 * (1 + Math.abs(value)))) {
    throw new ClaraError(`The added tokens of ${folder} have other embeddings than this run's.`, {
      hint: "Set 'embeddingSeed' to the value that its training had.",
    })
  }
  return { folder, parameters: new Map([...parameters].map(([name, { data }]) => [name, data as Float32Array])) }
}

import { existsSync } from 'node:fs'
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { openSafetensors, writeSafetensors } from '../../checkpoint/safetensors.ts'
import { IDF } from '../../clara/model-folder.ts'
import { ClaraError } from '../../errors.ts'
import { float32, type HostTensor } from '../../graph/dtype.ts'
import { checkpointSteps } from '../checkpoint.ts'

// A run's checkpoints hold what it learns. What it takes over and leaves as it is lies once beside them, so that the run can
// go on, be packed, and be started from without the run before it.

const FILE = 'frozen.safetensors'

/** What a run leaves as it is. */
export interface FrozenParameters {
  readonly parameters: ReadonlyMap<string, Float32Array>
  readonly idf: Float32Array | undefined
}

/** Writes them, unless the folder already holds a run, which the trainer will refuse. */
export async function writeFrozen(
  runFolder: string,
  parameters: ReadonlyMap<string, HostTensor>,
  idf: Float32Array | undefined,
): Promise<void> {
  if ((await checkpointSteps(runFolder)).length > 0) return
  await mkdir(runFolder, { recursive: true })
  const tensors = new Map(parameters)
  if (idf) tensors.set(IDF, float32(idf, [idf.length]))
  await writeSafetensors(join(runFolder, FILE), tensors)
}

/** Reads them; undefined where a run leaves nothing as it is. */
export async function readFrozen(runFolder: string): Promise<FrozenParameters | undefined> {
  const path = join(runFolder, FILE)
  if (!existsSync(path)) return undefined
  await using file = await openSafetensors(path)
  const parameters = new Map<string, Float32Array>()
  for (const name of file.tensors.keys()) {
    const { data } = await file.read(name)
    if (!(data instanceof Float32Array)) {
      throw new ClaraError(`Tensor "${name}" of ${path} is not float32.`, { hint: 'Was the file changed?' })
    }
    parameters.set(name, data)
  }
  const idf = parameters.get(IDF)
  parameters.delete(IDF)
  return { parameters, idf }
}

/** A run of a stage with a frozen compressor without what it left as it was. */
export const lacking = (runFolder: string) =>
  new ClaraError(`${runFolder} lacks ${FILE}, the parameters that its stage left as they were.`, {
    hint: 'Use the folder that the run was trained in, whole.',
  })

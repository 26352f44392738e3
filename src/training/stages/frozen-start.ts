import { ClaraError } from '../../errors.ts'
import { float32, type HostTensor } from '../../graph/dtype.ts'
import { checkpointSteps } from '../checkpoint.ts'
import type { StageConfig } from './config.ts'
import { lacking, readFrozen, writeFrozen } from './frozen-parameters.ts'
import { readStart, startParameters } from './initialise.ts'
import { type StageTools, stageIdf } from './material.ts'
import { memoryRows } from './set-up.ts'

/** What a stage with a frozen compressor begins with. */
export interface FrozenStart {
  /** Of all roles, what learns and what does not. */
  readonly parameters: ReadonlyMap<string, HostTensor>
  readonly idf: Float32Array | undefined
  /** Keeps what the stage leaves as it is beside the run's checkpoints. */
  keep(learning: Iterable<string>): Promise<void>
}

/**
 * Reads the parameters that a stage with a frozen compressor begins with: from `initialise`, or where a run resumes from its own
 * folder.
 * @param texts Weigh tokens where there is nothing to start from (memory 'salient').
 */
export async function frozenStart(
  config: StageConfig,
  tools: StageTools,
  texts: readonly string[],
  resume: boolean,
): Promise<FrozenStart> {
  const { base } = tools
  if (resume) {
    const kept = await readFrozen(config.output)
    if (!kept && (await checkpointSteps(config.output)).length > 0) throw lacking(config.output)
    if (kept) {
      const parameters = startParameters(config, base, memoryRows(config, tools), undefined)
      for (const [name, values] of kept.parameters) {
        const fresh = parameters.get(name)
        if (fresh?.data.length !== values.length) throw unfit(name, config.output)
        parameters.set(name, float32(values, fresh.dims))
      }
      return { parameters, idf: kept.idf, keep: async () => {} }
    }
  }
  const start = config.initialise === undefined ? undefined : await readStart(config.initialise, base)
  const parameters = startParameters(config, base, memoryRows(config, tools), start)
  const idf = start ? await start.idf() : stageIdf(config, { ...tools, texts })
  return {
    parameters,
    idf,
    async keep(learning) {
      const learned = new Set(learning)
      const frozen = [...parameters].filter(([name]) => !learned.has(name))
      await writeFrozen(config.output, new Map(frozen), idf)
    },
  }
}

const unfit = (name: string, folder: string) =>
  new ClaraError(`The parameter '${name}' in ${folder} does not fit this run.`, {
    hint: 'Resume with the base model and adapters that the run was started with.',
  })

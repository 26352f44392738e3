import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { BaseModel } from '../../clara/base.ts'
import { QUERY_PROJECTION, reasonersParameter, SALIENT } from '../../clara/compressor.ts'
import { readAdapters } from '../../clara/model.ts'
import { ADAPTERS_FILE } from '../../clara/model-folder.ts'
import { EMBEDDING } from '../../clara/network.ts'
import { createRandom } from '../../data/random.ts'
import { ClaraError } from '../../errors.ts'
import { float32, type HostTensor } from '../../graph/dtype.ts'
import { initialAdapter, type Role } from '../../lora/adapters.ts'
import { readBestCheckpoint, readLastCheckpoint, stoppedEarly } from '../checkpoint.ts'
import { checkConfig } from '../config.ts'
import { isCompressorStage, type StageConfig, stageConfigSchema } from './config.ts'
import { readFrozen } from './frozen-parameters.ts'
import { stageIdf, stageMaterial } from './material.ts'

/** What a run starts from beside fresh values: an earlier run, or a model folder. */
export interface Start {
  readonly folder: string
  readonly parameters: ReadonlyMap<string, Float32Array>
  /** Rarity of tokens as the start's compressor knows it (memory 'salient'). */
  readonly idf: () => Promise<Float32Array | undefined>
}

/**
 * Reads the run or the model that `initialise` names.
 * @throws ClaraError when there is nothing to start from, or it belongs to other embeddings.
 */
export async function readStart(folder: string, base: BaseModel): Promise<Start> {
  return existsSync(join(folder, ADAPTERS_FILE)) ? await fromModel(folder, base) : await fromRun(folder)
}

/**
 * The parameters of all roles of a stage: fresh ones, then those of the start in their place. A query reasoner that the start lacks is
 * a copy of the encoder.
 * @throws ClaraError when the start does not fit this run.
 */
export function startParameters(
  config: StageConfig,
  base: BaseModel,
  memoryRows: number,
  start: Start | undefined,
): Map<string, HostTensor> {
  const parameters = initialParameters(config, base.config, memoryRows, base.embeddingNorm)
  const taken = (name: string) => !(config.generator === 'fresh' && name.includes('.decoder_adapter.'))
  if (start) takeParameters(start, parameters, taken)
  if (isCompressorStage(config.stage)) return parameters
  for (const [name, { dims, data }] of [...parameters]) {
    const own = reasonersParameter(name)
    if (own === undefined) continue
    const found = start?.parameters.get(own)
    if (found && found.length !== data.length) throw unfit(own, start)
    parameters.set(own, float32(found ?? (data as Float32Array).slice(), dims))
  }
  const projection = startProjection(config, base.config.hidden_size, start)
  if (projection) parameters.set(QUERY_PROJECTION, projection)
  return parameters
}

/** The start's, or where the run wants one that the start lacks, one that changes nothing. */
function startProjection(config: StageConfig, hidden: number, start: Start | undefined): HostTensor | undefined {
  const wanted = config.retrieval?.projection ?? false
  const found = start?.parameters.get(QUERY_PROJECTION)
  if (found && found.length !== hidden * hidden) throw unfit(QUERY_PROJECTION, start)
  if (found && !wanted && config.stage !== 'stage2_reasoning') {
    throw new ClaraError(`The query reasoner of ${start?.folder} has a projection, which this run would leave out.`, {
      hint: 'Set retrieval.projection to true.',
    })
  }
  if (!found && !wanted) return undefined
  return float32(found?.slice() ?? identity(hidden), [hidden, hidden])
}

function identity(size: number): Float32Array {
  const values = new Float32Array(size * size)
  for (let place = 0; place < size; place++) values[place * (size + 1)] = 1
  return values
}

const isOf = (role: Role, name: string) => name.includes(`.${role}.`)

function takeParameters(
  start: Start,
  parameters: ReadonlyMap<string, HostTensor>,
  taken: (name: string) => boolean,
): void {
  for (const [name, values] of start.parameters) {
    // stages that have no reasoner leave it behind: what they do to the compressor makes it useless
    if (isOf('query_reasoner_adapter', name) || !taken(name)) continue
    const target = parameters.get(name)
    if (target?.data.length !== values.length) throw unfit(name, start)
    ;(target.data as Float32Array).set(values)
  }
}

const unfit = (name: string, start: Start | undefined) =>
  new ClaraError(`The parameter '${name}' in ${start?.folder} does not fit this run.`, {
    hint: 'The earlier run must have the same base, rank and compressor.',
  })

/** Fresh parameters: adapters that change nothing, memory-token rows as noise at the embeddings' norm, salient weights of the design. */
function initialParameters(
  config: StageConfig,
  model: Parameters<typeof initialAdapter>[0],
  memoryRows: number,
  norm: number,
): Map<string, HostTensor> {
  const random = createRandom(config.seed)
  const { compressorLayers, memory } = config.compressor
  const parameters = new Map([
    ...initialAdapter(model, config.lora, 'encoder_adapter', random.uniform, compressorLayers),
    ...initialAdapter(model, config.lora, 'decoder_adapter', random.uniform),
  ])
  const hidden = model.hidden_size
  if (memoryRows > 0) {
    const rows = Float32Array.from({ length: memoryRows * hidden }, () => (random.normal() * norm) / Math.sqrt(hidden))
    parameters.set('memory_tokens.weight', float32(rows, [memoryRows, hidden]))
  }
  if (memory === 'salient') {
    parameters.set(SALIENT.alpha, float32([0.1], [1]))
    parameters.set(SALIENT.beta, float32([1.5], [1]))
    parameters.set(SALIENT.weight, float32(new Float32Array(hidden), [hidden, 1]))
  }
  return parameters
}

async function fromRun(folder: string): Promise<Start> {
  // the last steps of a run that early stopping ended made it worse
  const last = (await stoppedEarly(folder)) ? await readBestCheckpoint(folder) : await readLastCheckpoint(folder)
  if (!last) {
    throw new ClaraError(`There is no checkpoint in ${folder}, so nothing to start from.`, {
      hint: "Check the setting 'initialise'.",
    })
  }
  const frozen = await readFrozen(folder)
  const parameters = new Map([...(frozen?.parameters ?? []), ...last.parameters])
  const idf = async () => {
    if (frozen) return frozen.idf
    // the compressor of such a run was weighed by the run's own texts
    const config = checkConfig(last.state.config, stageConfigSchema, `of ${last.folder}`)
    return config.compressor.memory === 'salient' ? stageIdf(config, await stageMaterial(config)) : undefined
  }
  return { folder: last.folder, parameters, idf }
}

async function fromModel(folder: string, base: BaseModel): Promise<Start> {
  const { parameters, specialRows, idf } = await readAdapters(folder)
  const table = base.weights.get(EMBEDDING)?.data as Float32Array
  const own = table.subarray(table.length - specialRows.length)
  // the folder holds them as float16
  if (specialRows.some((value, index) => Math.abs(value - (own[index] ?? 0)) > 1e-3 * (1 + Math.abs(value)))) {
    throw new ClaraError(`The added tokens of ${folder} have other embeddings than this run's.`, {
      hint: "Set 'embeddingSeed' to the value that its training had.",
    })
  }
  return {
    folder,
    parameters: new Map([...parameters].map(([name, { data }]) => [name, data as Float32Array])),
    idf: async () => idf,
  }
}

import type { BaseModel } from '../../clara/base.ts'
import { MEMORY_ROWS, QUERY_PROJECTION, REASONER_SALIENT, SALIENT } from '../../clara/compressor.ts'
import type { ClaraConfig } from '../../clara/config.ts'
import { checkBaseFingerprint, readModelFile, saveModel } from '../../clara/model-folder.ts'
import { ClaraError } from '../../errors.ts'
import { float32, type HostTensor } from '../../graph/dtype.ts'
import { readBestCheckpoint, readLastCheckpoint } from '../checkpoint.ts'
import { checkConfig } from '../config.ts'
import { learnsCompressor, retrievalOf, type StageConfig, stageConfigSchema } from './config.ts'
import { lacking, readFrozen } from './frozen-parameters.ts'
import { readStart } from './initialise.ts'
import { stageIdf, stageMaterial, stageTools, tokenizerFolder } from './material.ts'

export interface PackOptions {
  readonly runFolder: string
  readonly modelFolder: string
  /** Which checkpoint: the newest, or the best by the run's evaluation metric. */
  readonly which: 'last' | 'best'
  /**
   * A model whose parameters are averaged with the checkpoint's, such as the one that the run started from: the mean of two points of one training often
   * generalises better than the later one (Izmailov et al. 2018; Wortsman et al. 2022).
   */
  readonly averageWith?: string | undefined
}

/**
 * Turns a run's checkpoint into a model folder that {@link loadModel} opens.
 * @throws ClaraError when there is no checkpoint, or the model to average with has other parameters or another base.
 */
export async function packRun({
  runFolder,
  modelFolder,
  which,
  averageWith,
}: PackOptions): Promise<{ step: number; folder: string }> {
  const checkpoint = await (which === 'best' ? readBestCheckpoint(runFolder) : readLastCheckpoint(runFolder))
  if (!checkpoint) {
    throw new ClaraError(`There is no ${which} checkpoint in ${runFolder}.`, {
      hint: 'Name the output folder of a training run.',
    })
  }
  const config = checkConfig(checkpoint.state.config, stageConfigSchema, `of ${checkpoint.folder}`)
  const [rate = 1] = config.compressionRates
  const clara: ClaraConfig = {
    compr_rate: rate,
    doc_max_length: config.docMaxLength,
    different_mem_tokens: config.differentMemTokens,
    lora_r: config.lora.rank,
    lora_alpha: config.lora.alpha,
    generation_top_k:
      config.retrieval || config.stage === 'stage2' ? retrievalOf(config).topK : config.documents.maximum,
    max_new_tokens: 64,
    compressor: config.compressor,
  }
  const { base, idf, frozen } = await beside(config, runFolder)
  const learned = new Map([...frozen, ...checkpoint.parameters])
  const averaged = averageWith === undefined ? learned : await averagedWith(averageWith, learned, base, config.base)
  const parameters = new Map<string, HostTensor>()
  for (const [name, values] of averaged)
    parameters.set(name, float32(values, dimsOf(name, values, config.lora.rank, base.config.hidden_size)))
  await saveModel({
    folder: modelFolder,
    basePath: config.base,
    tokenizerFolder: tokenizerFolder(config),
    base,
    config: clara,
    stage: config.stage,
    parameters,
    idf,
  })
  return { step: checkpoint.state.step, folder: checkpoint.folder }
}

/** The mean of each parameter and the same one of a model. */
async function averagedWith(
  folder: string,
  learned: ReadonlyMap<string, Float32Array>,
  base: BaseModel,
  basePath: string,
): Promise<Map<string, Float32Array>> {
  const unfit = (problem: string) =>
    new ClaraError(`The model in ${folder} cannot be averaged with this run: ${problem}.`, {
      hint: 'Name the model that the run started from, or one with the same base, rank and compressor.',
    })
  checkBaseFingerprint(folder, await readModelFile(folder), basePath, base.fingerprint)
  const { parameters } = await readStart(folder, base)
  const surplus = [...parameters.keys()].find((name) => !learned.has(name))
  if (surplus !== undefined) throw unfit(`the run has no '${surplus}'`)
  const averaged = new Map<string, Float32Array>()
  for (const [name, values] of learned) {
    const other = parameters.get(name)
    if (other?.length !== values.length) throw unfit(`'${name}' is not alike`)
    averaged.set(
      name,
      values.map((value, index) => (value + (other[index] ?? 0)) / 2),
    )
  }
  return averaged
}

/** What a model consists of beside what its run learned. */
async function beside(config: StageConfig, runFolder: string) {
  if (learnsCompressor(config)) {
    const material = await stageMaterial(config)
    return { base: material.base, idf: stageIdf(config, material), frozen: [] }
  }
  const kept = await readFrozen(runFolder)
  if (!kept) throw lacking(runFolder)
  const { base } = await stageTools(config)
  return { base, idf: kept.idf, frozen: kept.parameters }
}

/** Shapes of parameters, which training keeps as flat arrays. */
function dimsOf(name: string, values: Float32Array, rank: number, hidden: number): readonly number[] {
  if (name.includes('.lora_A.')) return [rank, values.length / rank]
  if (name.includes('.lora_B.')) return [values.length / rank, rank]
  if (name === MEMORY_ROWS || name === QUERY_PROJECTION) return [values.length / hidden, hidden]
  return name === SALIENT.weight || name === REASONER_SALIENT.weight ? [values.length, 1] : [values.length]
}

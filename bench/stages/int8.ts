import type { Runtime } from '../../src/runtime/runtime.ts'
import type { StageConfig } from '../../src/training/stages/config.ts'
import { startParameters } from '../../src/training/stages/initialise.ts'
import { stageIdf, stageMaterial } from '../../src/training/stages/material.ts'
import { memoryRows, stageModelOptions } from '../../src/training/stages/set-up.ts'
import { openStage1 } from '../../src/training/stages/stage1.ts'
import { inTurn, medianOf } from '../measure.ts'
import { updates } from './stepper.ts'

export interface Int8Options {
  readonly config: StageConfig
  /** Different batches that a round goes through. */
  readonly batches: number
  readonly repetitions: number
}

/** How many times as fast stage 1 learns with the base's linear layers in 8 bits, on the same batches. */
export async function measureInt8(runtime: Runtime, { config, ...options }: Int8Options): Promise<number> {
  const material = await stageMaterial(config)
  const idf = stageIdf(config, material)
  const batches = Array.from({ length: options.batches }, () => material.batches.next())
  const open = async (frozenWeights: 'fp32' | 'int8') => {
    const parameters = startParameters(config, material.base, memoryRows(config, material), undefined)
    return await openStage1({ ...stageModelOptions(config, material, { runtime, parameters, idf }), frozenWeights })
  }
  const [exact, rounded] = [await open('fp32'), await open('int8')]
  try {
    const makers = batches.map((batch) => () => batch)
    const times = await inTurn(options.repetitions, {
      fp32: updates(exact, config, makers),
      int8: updates(rounded, config, makers),
    })
    return medianOf(times, ({ fp32, int8 }) => fp32 / int8)
  } finally {
    await Promise.all([exact.close(), rounded.close()])
  }
}

import { fixedWidth } from '../../clara/batch.ts'
import { digitsOf } from '../../clara/windows.ts'
import type { HostTensor } from '../../graph/dtype.ts'
import type { Runtime } from '../../runtime/runtime.ts'
import type { StageConfig } from './config.ts'
import type { StageTools } from './material.ts'
import type { Stage1ModelOptions, StageShape } from './stage1.ts'

/** Embeddings of memory tokens that are parameters of a run. */
export const memoryRows = ({ compressor }: StageConfig, { memoryTokens }: StageTools): number =>
  compressor.memory === 'tokens' ? memoryTokens : 0

/** A run's settings and tools as the models of all stages take them. */
export const stageModelOptions = (
  config: StageConfig,
  tools: StageTools,
  own: {
    readonly runtime: Runtime
    readonly parameters: ReadonlyMap<string, HostTensor>
    readonly idf: Float32Array | undefined
  },
): Stage1ModelOptions => ({
  ...stageShape(config, tools, own.idf),
  runtime: own.runtime,
  parameters: own.parameters,
})

/** The same without what only a computation needs. */
export const stageShape = (
  config: StageConfig,
  { base, fixedCount, memoryTokens, firstMemoryToken, tokenizer }: StageTools,
  idf: Float32Array | undefined,
): StageShape => ({
  base,
  lora: { rank: config.lora.rank, alpha: config.lora.alpha },
  pooling: {
    config: config.compressor,
    fixedCount,
    idf,
    isDigits: digitsOf(tokenizer),
    width: fixedWidth(base.config, config.docMaxLength, fixedCount),
  },
  memoryTokens,
  firstMemoryToken,
  padId: tokenizer.padId,
  // whichever is longer: a row of prompts, or a document with its memory tokens
  positions: Math.max(config.maxLength * config.questionsPerRow, config.docMaxLength + fixedCount + 3),
  dropout: config.lora.dropout,
  frozenWeights: config.frozenWeights,
  mseWeight: config.mseWeight,
})

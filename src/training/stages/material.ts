import { openWeights } from '../../checkpoint/weights.ts'
import { type BaseModel, loadBase } from '../../clara/base.ts'
import { folderOf } from '../../clara/model-folder.ts'
import { claraTokens } from '../../clara/prompts.ts'
import { loadTokenizer } from '../../tokenizer/load.ts'
import type { Tokenizer } from '../../tokenizer/types.ts'
import { standardisedIdf } from '../idf.ts'
import { type StageData, stageBatches } from './batches.ts'
import type { StageConfig } from './config.ts'
import type { SampleOptions } from './samples.ts'

/** What a run works with: the base model, and its tokenizer with CLaRa's tokens. */
export interface StageTools {
  readonly base: BaseModel
  readonly tokenizer: Tokenizer
  /** Id of the first memory token. */
  readonly firstMemoryToken: number
  /** Different memory tokens in the vocabulary. */
  readonly memoryTokens: number
  /** Memory tokens of a document, where their number is fixed. */
  readonly fixedCount: number
  readonly optionsAt: (rate: number) => SampleOptions
}

/** The same, and the data of stages 1 and 1_2 as batches. */
export interface StageMaterial extends StageTools, StageData {}

/** Folder of the base's tokenizer: the configured one, or where the base itself lies. */
export const tokenizerFolder = ({ tokenizer, base }: StageConfig): string => tokenizer ?? folderOf(base)

/** Reads base, tokenizer and data of a run. The same configuration gives the same material. */
export async function stageMaterial(config: StageConfig): Promise<StageMaterial> {
  const tools = await stageTools(config)
  return { ...tools, ...(await stageBatches(config, tools.optionsAt)) }
}

/** Reads base and tokenizer of a run. @param readBase How the base is read. Default: with all its weights. */
export async function stageTools(config: StageConfig, readBase = loadBase): Promise<StageTools> {
  const { compressor, differentMemTokens, docMaxLength } = config
  const fixedCount = Math.floor(docMaxLength / (config.compressionRates[0] ?? 1))
  const baseTokenizer = await loadTokenizer(tokenizerFolder(config))
  const tokenizer = baseTokenizer.withAddedTokens(claraTokens({ count: fixedCount, differentMemTokens }))
  await using source = await openWeights(config.base)
  const base = await readBase(source, {
    baseVocabulary: baseTokenizer.vocabularySize,
    vocabulary: tokenizer.vocabularySize,
    seed: config.embeddingSeed,
  })
  const optionsAt = (rate: number): SampleOptions => ({
    tokenizer,
    docMaxLength,
    memoryCount: (textTokens) => (compressor.proportional ? Math.max(1, Math.ceil(textTokens / rate)) : fixedCount),
    differentMemTokens,
    memoryInInput: compressor.memory === 'tokens',
    maxLength: config.maxLength,
    questionsPerRow: config.questionsPerRow,
    ...(config.distillation ? { withText: true } : {}),
    ...(config.background ? { background: config.background } : {}),
  })
  return {
    base,
    tokenizer,
    firstMemoryToken: baseTokenizer.vocabularySize,
    memoryTokens: differentMemTokens ? fixedCount : 1,
    fixedCount,
    optionsAt,
  }
}

/** Rarity of tokens over the run's distinct texts, where the compressor weighs by it. */
export function stageIdf(
  config: StageConfig,
  { tokenizer, texts, base }: Pick<StageMaterial, 'tokenizer' | 'texts' | 'base'>,
): Float32Array | undefined {
  if (config.compressor.memory !== 'salient') return undefined
  const passages = [...new Set(texts)].map((text) => tokenizer.encode(text))
  return standardisedIdf(passages, base.vocabulary)
}

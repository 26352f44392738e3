import { ClaraError } from '../errors.ts'
import type { TrainingConfig } from './config.ts'
import type { Settings } from './settings.ts'

/** Sets of settings to start from, by name. */
const presetNames = ['paper', 'small'] as const

type Stage = TrainingConfig['stage']

/** Stages 1 and 2 of the paper. */
const paper: Settings = {
  learningRate: 1e-4,
  schedule: 'cosine',
  warmup: 0.03,
  minimumLearningRateFactor: 0.1,
  betas: [0.9, 0.95],
  weightDecay: 0,
  clip: 1,
  // 128 samples an update
  batchSize: 8,
  accumulate: 16,
  lora: { rank: 16, dropout: 0.1 },
  mseWeight: 0.1,
  docMaxLength: 256,
  maxLength: 2048,
  compressionRates: [16],
  differentMemTokens: true,
  questionsPerRow: 1,
  compressor: { memory: 'tokens', similarity: 'flat' },
}

/** Stage 3 of the paper: 32 samples an update at a constant rate. */
const paperEndToEnd: Settings = {
  ...paper,
  learningRate: 5e-6,
  schedule: 'constant',
  batchSize: 4,
  accumulate: 8,
  maxLength: 1024,
}

/** What the embedded model was trained with: a salient memory, few layers, short documents (docs/LOG.md has the experiments). */
const small: Settings = {
  learningRate: 6e-4,
  schedule: 'cosine',
  warmup: 0.03,
  minimumLearningRateFactor: 0.1,
  batchSize: 4,
  accumulate: 1,
  lora: { rank: 16, dropout: 0 },
  mseWeight: 0,
  docMaxLength: 128,
  maxLength: 1024,
  compressionRates: [4],
  compressor: {
    memory: 'salient',
    compressorLayers: 8,
    attention: 'bidirectional',
    memoryNorm: true,
    proportional: true,
    similarity: 'maxsim',
  },
}

const smallEndToEnd: Settings = { ...small, learningRate: 1e-4, schedule: 'constant', batchSize: 2 }

const presets: Readonly<Record<(typeof presetNames)[number], Readonly<Record<Stage, Settings>>>> = {
  paper: {
    stage1: { ...paper, documents: { severalShare: 0, maximum: 1 } },
    stage1_2: { ...paper, documents: { severalShare: 1, maximum: 5 } },
    stage2_pretrain_retrieval: { ...paperEndToEnd, retrieval: { poolSize: 20, temperature: 0.02 } },
    stage2: { ...paperEndToEnd, retrieval: { topK: 5, poolSize: 20, temperature: 0.02 } },
    stage2_reasoning: paperEndToEnd,
  },
  small: {
    stage1: { ...small, documents: { severalShare: 0.25, maximum: 5 } },
    stage1_2: { ...small, documents: { severalShare: 0.5, maximum: 5 } },
    stage2_pretrain_retrieval: smallEndToEnd,
    stage2: { ...smallEndToEnd, retrieval: { topK: 3, poolSize: 20 } },
    stage2_reasoning: smallEndToEnd,
  },
}

/**
 * The settings of a preset for a stage. `paper`: the published values (arXiv 2511.18659; DESIGN section 5), without the number
 * of steps, which depends on the data: one epoch. `small`: those of the embedded model, for a small machine.
 */
export function presetSettings(name: unknown, stage: Stage): Settings {
  const known = presetNames.find((preset) => preset === name)
  if (known !== undefined) return presets[known][stage]
  throw new ClaraError(`There is no preset ${JSON.stringify(name)}.`, { expected: `one of ${presetNames.join(', ')}` })
}

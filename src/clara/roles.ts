import { ClaraError } from '../errors.ts'
import { factorName, type Role } from '../lora/adapters.ts'
import { openCachedModel } from '../model/cached.ts'
import type { LanguageModel } from '../model/generate.ts'
import type { WeightKind } from '../model/weight-kinds.ts'
import { gather } from '../ops/indexing.ts'
import type { Runtime } from '../runtime/runtime.ts'
import { fixedWidth, type PoolingOptions } from './batch.ts'
import { loraSize, memoryLength } from './config.ts'
import { type Encoder, openEncoder } from './encoder.ts'
import { type InferenceRole, inferenceRole, type RoleKind } from './inference.ts'
import { openLayerStack } from './layer-stack.ts'
import type { ClaraModel } from './model.ts'
import { embeddingTable } from './network.ts'
import { openStackedEncoder, openStackedGenerator } from './stacked.ts'
import { storeBase } from './stored-base.ts'
import { isStacked } from './stored-model.ts'
import { digitsOf } from './windows.ts'

/** Longest sequence that the generator is opened for. */
const MAX_POSITIONS = 4096

/** The three roles of a model, ready to run. */
export interface Roles {
  readonly encoder: Encoder
  /** The compressor itself where the model has no query reasoner. */
  readonly queryReasoner: Encoder
  readonly generator: LanguageModel
}

export interface RolesOptions {
  readonly kind: WeightKind
  readonly lowMemory: boolean
}

/**
 * Opens the roles of a model: each in a session of its own, with the weights that suit it, or all on one stack of layers, which
 * holds the base once.
 */
export async function openRoles(model: ClaraModel, runtime: Runtime, options: RolesOptions): Promise<Roles> {
  const { kind, lowMemory } = options
  const stored = model.base.stored
  if (stored && stored.kind !== kind) {
    throw new ClaraError(`The model was opened with weights as ${stored.kind}.`, {
      received: kind,
      hint: 'Load it again with the other weights.',
    })
  }
  // until stage 3 has trained one, the compressor reads questions too
  const hasReasoner = model.parameters.has(factorName(0, 'self_attn.o_proj', 'A', 'query_reasoner_adapter'))
  if (stored || isStacked(kind, lowMemory)) return openStacked(model, runtime, options, hasReasoner)
  const as: RoleKind = kind === 'fp32' ? 'fp32' : 'int8'
  const encoder = await openRole(model, runtime, 'encoder_adapter', as)
  const queryReasoner = hasReasoner ? await openRole(model, runtime, 'query_reasoner_adapter', as) : encoder
  return { encoder, queryReasoner, generator: (await openGenerator(model, runtime, as)).generator }
}

async function openStacked(
  model: ClaraModel,
  runtime: Runtime,
  { kind, lowMemory }: RolesOptions,
  hasReasoner: boolean,
): Promise<Roles> {
  const { base, config, parameters, tokenizer } = model
  const stackOptions = {
    runtime,
    config: base.config,
    vocabulary: base.vocabulary,
    stored: base.stored ?? storeBase(base, kind),
    adapters: parameters,
    size: loraSize(config),
    positions: Math.max(maxPositionsOf(model), documentPositions(model)),
    lowMemory,
  }
  const stack = await openLayerStack(stackOptions)
  const encoderOf = (role: Role) => openStackedEncoder({ ...encoderOptions(model, runtime), stack, stackOptions, role })
  const encoder = await encoderOf('encoder_adapter')
  return {
    encoder,
    queryReasoner: hasReasoner ? await encoderOf('query_reasoner_adapter') : encoder,
    generator: openStackedGenerator({ stack, stackOptions, padId: tokenizer.padId }),
  }
}

const maxPositionsOf = ({ base }: ClaraModel) => Math.min(MAX_POSITIONS, base.config.max_position_embeddings)

async function openRole(model: ClaraModel, runtime: Runtime, role: Role, kind: RoleKind): Promise<Encoder> {
  const { base, config, parameters } = model
  const layers = config.compressor.compressorLayers ?? base.config.num_hidden_layers
  const prepared = await inferenceRole({
    runtime,
    base,
    adapters: parameters,
    role,
    size: loraSize(config),
    layers,
    kind,
    head: false,
  })
  return openEncoder({
    ...encoderOptions(model, runtime),
    role: prepared,
    memoryOf: role,
    positions: documentPositions(model),
  })
}

/** Longest document with its memory tokens. */
const documentPositions = ({ config }: ClaraModel) => config.doc_max_length + memoryLength(config) + 16

/** How a model's documents become memory, at its own rate. */
export function poolingOf({
  base,
  config,
  tokenizer,
  idf,
}: Pick<ClaraModel, 'base' | 'config' | 'tokenizer' | 'idf'>): PoolingOptions {
  const fixedCount = memoryLength(config)
  return {
    config: config.compressor,
    rate: config.compr_rate,
    fixedCount,
    idf,
    isDigits: digitsOf(tokenizer),
    width: fixedWidth(base.config, config.doc_max_length, fixedCount),
  }
}

function encoderOptions(model: ClaraModel, runtime: Runtime) {
  const { base, parameters, tokenizer, memoryTokens } = model
  return {
    runtime,
    base,
    parameters,
    pooling: poolingOf(model),
    memoryTokens,
    padId: tokenizer.padId,
  }
}

/** Opens the generator in a session of its own; beside it the weights that it reads. */
export async function openGenerator(
  model: ClaraModel,
  runtime: Runtime,
  kind: RoleKind,
  maxPositions = maxPositionsOf(model),
): Promise<{ readonly generator: LanguageModel; readonly weights: InferenceRole['weights'] }> {
  const { base, config, parameters, tokenizer } = model
  const role = await inferenceRole({
    runtime,
    base,
    adapters: parameters,
    role: 'decoder_adapter',
    size: loraSize(config),
    layers: base.config.num_hidden_layers,
    kind,
    head: true,
  })
  const generator = await openCachedModel({
    runtime,
    config: base.config,
    maxPositions,
    padId: tokenizer.padId,
    weights: role.weights,
    parts: (graph) => {
      const declared = role.declare(graph, maxPositions)
      return {
        decoder: declared.decoder,
        head: declared.head,
        embed: (ids) => gather(embeddingTable(declared.base), ids),
      }
    },
  })
  return { generator, weights: role.weights }
}

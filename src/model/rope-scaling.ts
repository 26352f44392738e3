import { z } from 'zod'
import { ClaraError } from '../errors.ts'

const factors = z.array(z.number().positive())

/** `rope_scaling` of a config.json, or `rope_parameters`, as newer versions of transformers write it. */
export const ropeParameters = z.looseObject({
  rope_type: z.string().nullish(),
  /** The older name of rope_type. */
  type: z.string().nullish(),
  factor: z.number().positive().nullish(),
  low_freq_factor: z.number().positive().nullish(),
  high_freq_factor: z.number().positive().nullish(),
  original_max_position_embeddings: z.number().int().positive().nullish(),
  short_factor: factors.nullish(),
  long_factor: factors.nullish(),
  attention_factor: z.number().positive().nullish(),
  rope_theta: z.number().positive().nullish(),
  partial_rotary_factor: z.number().positive().max(1).nullish(),
})

type RopeParameters = z.infer<typeof ropeParameters>

/** How rotary frequencies are stretched for longer texts, every field decided; the names are those of config.json. */
export type RopeScaling =
  | { readonly rope_type: 'linear'; readonly factor: number }
  /** Grows the base for sequences longer than max_position_embeddings, and does nothing before. */
  | { readonly rope_type: 'dynamic' }
  | {
      readonly rope_type: 'llama3'
      readonly factor: number
      readonly low_freq_factor: number
      readonly high_freq_factor: number
      readonly original_max_position_embeddings: number
    }
  | {
      readonly rope_type: 'longrope'
      /** A divisor for each frequency, for sequences up to original_max_position_embeddings. */
      readonly short_factor: readonly number[]
      /** The same for longer sequences. */
      readonly long_factor: readonly number[]
      /** Multiplies cosines and sines, of short sequences too. */
      readonly attention_factor: number
      readonly original_max_position_embeddings: number
    }

/** What the scaling needs to know of the rest of the configuration. */
export interface RopeSurroundings {
  readonly model_type: string
  readonly max_position_embeddings: number
  /** The field beside rope_scaling, where the family has one. */
  readonly original_max_position_embeddings: number | undefined
  /** Dimensions of a head that rotate. */
  readonly rotaryDim: number
  /** Whether the parameters stood in `rope_parameters`. */
  readonly newer: boolean
}

/**
 * Decides a model's rotary scaling, as transformers does (modeling_rope_utils.py of 4.56, and of 5 for `rope_parameters`).
 * @throws ClaraError for a scaling that is unknown or incomplete.
 */
export function decideRopeScaling(given: RopeParameters, around: RopeSurroundings): RopeScaling | undefined {
  if (Object.values(given).some((value) => typeof value === 'object' && value !== null && !Array.isArray(value))) {
    throw new ClaraError('The model configuration has rotary parameters for each type of layer.', {
      expected: 'one set of rope_parameters for all layers',
    })
  }
  const stated = given.rope_type ?? given.type ?? 'default'
  // what these were called when Phi-3 came out
  const kind = around.model_type === 'phi3' && ['su', 'yarn'].includes(stated) ? 'longrope' : stated
  const need = <Value>(name: string, value: Value | null | undefined): Value => {
    if (value !== null && value !== undefined) return value
    throw new ClaraError(`The model configuration lacks '${name}' for its rotary scaling '${kind}'.`)
  }
  switch (kind) {
    case 'default':
      return undefined
    case 'dynamic':
      return { rope_type: kind }
    case 'linear':
      return { rope_type: kind, factor: need('factor', given.factor) }
    case 'llama3':
      return {
        rope_type: kind,
        factor: need('factor', given.factor),
        low_freq_factor: need('low_freq_factor', given.low_freq_factor),
        high_freq_factor: need('high_freq_factor', given.high_freq_factor),
        original_max_position_embeddings: need(
          'original_max_position_embeddings',
          given.original_max_position_embeddings,
        ),
      }
    case 'longrope': {
      const [short, long] = [need('short_factor', given.short_factor), need('long_factor', given.long_factor)]
      for (const [name, list] of Object.entries({ short_factor: short, long_factor: long })) {
        if (list.length === around.rotaryDim / 2) continue
        throw new ClaraError(`The model configuration has a '${name}' of the wrong length.`, {
          expected: `${around.rotaryDim / 2} numbers, one for each pair of ${around.rotaryDim} rotary dimensions`,
          received: String(list.length),
        })
      }
      return {
        rope_type: kind,
        short_factor: short,
        long_factor: long,
        ...longropeExtent(given, around),
      }
    }
    default:
      throw new ClaraError(`Rotary scaling '${kind}' is unknown.`, {
        expected: 'rope_type to be one of default, linear, dynamic, llama3, longrope',
        received: kind,
      })
  }
}

/** The length that the model was first trained with, and the attention factor (Ding et al. 2024, LongRoPE, section 3.3). */
function longropeExtent(given: RopeParameters, around: RopeSurroundings) {
  const beside = around.original_max_position_embeddings
  const original = beside ?? given.original_max_position_embeddings ?? around.max_position_embeddings
  const ratio = around.max_position_embeddings / original
  // a length beside rope_scaling outweighs the factor in it
  const factor = beside !== undefined && !around.newer ? ratio : (given.factor ?? ratio)
  const computed = factor <= 1 ? 1 : Math.sqrt(1 + Math.log(factor) / Math.log(original))
  return { attention_factor: given.attention_factor ?? computed, original_max_position_embeddings: original }
}

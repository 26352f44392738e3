import { z } from 'zod'

/**
 * How documents become memory. The defaults are the published behaviour; the rest is described in the design notes and
 * in the model card of the embedded model.
 */
export const compressorConfig = z
  .strictObject({
    memory: z
      .enum(['tokens', 'mean', 'salient'])
      .default('tokens')
      .describe(
        'tokens: hidden states of appended memory tokens (the paper); mean: mean over windows; salient: weighted sum over windows of embeddings and hidden states',
      ),
    compressorLayers: z
      .number()
      .int()
      .positive()
      .optional()
      .describe('Run only the first layers of the base model. Default: all'),
    attention: z.enum(['causal', 'bidirectional']).default('causal').describe('What a position of the compressor sees'),
    memoryNorm: z
      .boolean()
      .default(false)
      .describe('Scale every memory token to the mean norm of the input embeddings'),
    windows: z
      .enum(['even', 'salient', 'balanced'])
      .optional()
      .describe(
        "Windows of 'salient' memory: of one length, each around one of the rarest tokens, or all with about as much content. Default: even",
      ),
    similarity: z
      .enum(['flat', 'maxsim'])
      .default('flat')
      .describe('flat: cosine of flattened memories (the paper); maxsim: sum over query tokens of the best cosine'),
    proportional: z
      .boolean()
      .default(false)
      .describe('Memory tokens in proportion to the length of the document, instead of a fixed number'),
  })
  .refine((config) => !(config.proportional && config.similarity === 'flat'), {
    message:
      "memory in proportion to the length needs similarity 'maxsim': flattened memories of different lengths have no cosine",
    path: ['similarity'],
  })
  .refine((config) => !(config.proportional && config.memory === 'tokens'), {
    message:
      "memory 'tokens' has a fixed number of memory tokens: use 'mean' or 'salient' for memory in proportion to the length",
    path: ['proportional'],
  })
  .refine(
    ({ windows = 'even', memory, proportional }) => windows === 'even' || (memory === 'salient' && proportional),
    {
      message: "windows that follow the content need memory 'salient' in proportion to the length (proportional: true)",
      path: ['windows'],
    },
  )

export type CompressorConfig = z.infer<typeof compressorConfig>

/** What a CLaRa model adds to its base, by the published names where those exist. */
export const claraConfig = z.strictObject({
  compr_rate: z.number().positive().describe('Text positions per memory token'),
  doc_max_length: z.number().int().positive().describe('Longest document, in tokens; longer ones are truncated'),
  different_mem_tokens: z.boolean().default(true).describe('A memory token per slot instead of one repeated'),
  kbtc_training: z.boolean().optional().describe('The published code trained with a token <KBTC>. Default: false'),
  lora_r: z.number().int().positive().default(16).describe('Rank of the adapters'),
  lora_alpha: z.number().positive().optional().describe("Numerator of the adapters' scale. Default: 2 * lora_r"),
  generation_top_k: z.number().int().positive().default(5).describe('Documents the generator reads'),
  max_new_tokens: z.number().int().positive().default(128),
  compressor: compressorConfig.prefault({}),
})

export type ClaraConfig = z.infer<typeof claraConfig>

/** Memory tokens of a document of full length: floor(doc_max_length / compr_rate). */
export const memoryLength = (config: Pick<ClaraConfig, 'doc_max_length' | 'compr_rate'>): number =>
  Math.floor(config.doc_max_length / config.compr_rate)

export const loraSize = (config: ClaraConfig) => ({
  rank: config.lora_r,
  alpha: config.lora_alpha ?? 2 * config.lora_r,
})

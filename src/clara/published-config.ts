/** config.json of a checkpoint in the layout of the published code (its `CLaRaConfig`). */
import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { ClaraError } from '../errors.ts'
import type { ClaraConfig } from './config.ts'
import { claraConfig, loraSize } from './config.ts'

/** What is read of a published config.json, by its own names. The file has many more keys, which say nothing to us. */
const publishedConfig = z.looseObject({
  compr_rate: z.number().int().positive(),
  doc_max_length: z.number().int().positive(),
  decoder_model_name: z.string().min(1),
  lora: z.literal(true, { error: 'only checkpoints with adapters (lora: true) are known' }).default(true),
  lora_r: z.number().int().positive().default(16),
  different_mem_tokens: z.boolean().default(false),
  kbtc_training: z.boolean().default(false),
  // without it the published code puts every memory but the first in the wrong place
  sep: z.literal(true, { error: 'only checkpoints with separators (sep: true) are known' }).default(true),
  generation_top_k: z.number().int().positive().default(1),
  max_new_tokens: z.number().int().positive().default(128),
  training_stage: z.string().default('stage1'),
})

export type PublishedConfig = z.infer<typeof publishedConfig>

const largestConfig = 4 << 20

/** @throws ClaraError when the file is missing or is no configuration of a checkpoint. */
export async function readPublishedConfig(folder: string): Promise<PublishedConfig> {
  const path = join(folder, 'config.json')
  const parsed = publishedConfig.safeParse(await readConfigJson(path))
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  throw new ClaraError(`"${path}" is no configuration of a CLaRa checkpoint.`, {
    received: `${issue?.path.join('.') || 'the file'}: ${issue?.message}`,
  })
}

/** A JSON file of a checkpoint. */
export async function readConfigJson(path: string, largest = largestConfig): Promise<unknown> {
  const facts = await stat(path).catch((cause: unknown) => {
    throw new ClaraError(`"${path}" does not exist.`, {
      expected: 'a folder with config.json, adapters.pth and decoder_first_last_layers.pth',
      cause,
    })
  })
  if (facts.size > largest) {
    throw new ClaraError(`"${path}" is too large for what it should be.`, {
      expected: `at most ${largest} bytes`,
      received: `${facts.size}`,
    })
  }
  try {
    return JSON.parse(await readFile(path, 'utf8'))
  } catch (cause) {
    throw new ClaraError(`"${path}" is not JSON.`, { hint: 'Fetch it again.', cause })
  }
}

/** Which layout a folder has by its config.json: ours, the published one, or that of a base model; undefined when there is none. */
export async function layoutOf(folder: string): Promise<'clara' | 'published' | 'base' | undefined> {
  const path = join(folder, 'config.json')
  const exists = await stat(path).then(
    (facts) => facts.isFile(),
    () => false,
  )
  if (!exists) return undefined
  const raw = z.record(z.string(), z.unknown()).safeParse(await readConfigJson(path).catch(() => undefined))
  if (!raw.success) return undefined
  if (raw.data['format'] === 'clara-ts') return 'clara'
  return 'decoder_model_name' in raw.data || raw.data['model_type'] === 'CLaRa' ? 'published' : 'base'
}

/** The same settings under our names. */
export function settingsOf(published: PublishedConfig): ClaraConfig {
  return claraConfig.parse({
    compr_rate: published.compr_rate,
    doc_max_length: published.doc_max_length,
    different_mem_tokens: published.different_mem_tokens,
    ...(published.kbtc_training ? { kbtc_training: true } : {}),
    lora_r: published.lora_r,
    lora_alpha: 2 * published.lora_r,
    generation_top_k: published.generation_top_k,
    max_new_tokens: published.max_new_tokens,
  })
}

/** The settings of a model for which the published layout has no place, as `name value`. */
export function settingsWithoutPlace(config: ClaraConfig): string[] {
  const { compressor, compr_rate: rate } = config
  const { rank, alpha } = loraSize(config)
  return [
    ...(compressor.memory === 'tokens' ? [] : [`compressor.memory '${compressor.memory}'`]),
    ...(compressor.compressorLayers === undefined
      ? []
      : [`compressor.compressorLayers ${compressor.compressorLayers}`]),
    ...(compressor.attention === 'causal' ? [] : [`compressor.attention '${compressor.attention}'`]),
    ...(compressor.memoryNorm ? ['compressor.memoryNorm true'] : []),
    ...(compressor.similarity === 'flat' ? [] : [`compressor.similarity '${compressor.similarity}'`]),
    ...(compressor.proportional ? ['compressor.proportional true'] : []),
    ...(Number.isInteger(rate) ? [] : [`compr_rate ${rate}, which is no whole number`]),
    ...(alpha === 2 * rank ? [] : [`lora_alpha ${alpha}, which is not twice lora_r ${rank}`]),
  ]
}

/**
 * A config.json for the published code, with every key that its `CLaRaConfig` writes. `pure_inference` makes its loader keep all
 * adapters, whatever the stage.
 */
export function publishedConfigOf(config: ClaraConfig, stage: string, baseName: string): Record<string, unknown> {
  return {
    _attn_implementation_autoset: true,
    ae_mode: 'token',
    attn_implementation: null,
    auto_map: { AutoConfig: 'modeling_clara.CLaRaConfig', AutoModel: 'modeling_clara.CLaRa' },
    compr_base_model_name: 'mistralai/Mistral-7B-Instruct-v0.2',
    compr_every_n_layer: null,
    compr_linear_type: 'concat',
    compr_mlp_hidden_dim: 8096,
    compr_model_name: 'none',
    compr_n_layers: null,
    compr_rate: config.compr_rate,
    compr_rms_norm: false,
    compr_use_mlp: true,
    decoder_model_name: baseName,
    device_map: null,
    different_mem_tokens: config.different_mem_tokens,
    doc_max_length: config.doc_max_length,
    generation_top_k: config.generation_top_k,
    kbtc_training: config.kbtc_training ?? false,
    load_adapters: true,
    load_pretrained_checkpoint: false,
    lora: true,
    lora_compressor: false,
    lora_r: config.lora_r,
    lora_r_compressor: config.lora_r,
    max_new_tokens: config.max_new_tokens,
    model_type: 'CLaRa',
    optimize_mem_tokens: true,
    pure_inference: true,
    quantization: 'no',
    sep: true,
    stage2_retrieval_top_n: 1,
    training_form: 'both',
    training_stage: stage,
    transformers_version: '4.56.2',
  }
}

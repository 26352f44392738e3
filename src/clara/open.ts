import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { HostTensor } from '../graph/dtype.ts'
import { MEMORY_ROWS } from './compressor.ts'
import { claraConfig, memoryLength } from './config.ts'
import { type ClaraModel, loadModel } from './model.ts'
import { loadPublishedBase, type PublishedCheckpoint, readPublished } from './published.ts'

/** Opens a model folder of ours, or a checkpoint in the published layout, which names its base in `decoder_model_name`. */
export async function openModel(folder: string): Promise<ClaraModel> {
  const text = await readFile(join(folder, 'config.json'), 'utf8').catch(() => '')
  return text.includes('"decoder_model_name"') ? publishedModel(await readPublished(folder)) : loadModel(folder)
}

async function publishedModel(checkpoint: PublishedCheckpoint): Promise<ClaraModel> {
  const { config: published, memory, tokenizer, lora } = checkpoint
  const base = await loadPublishedBase(checkpoint)
  const parameters = new Map<string, HostTensor>()
  for (const adapter of checkpoint.adapters.values()) for (const [name, value] of adapter) parameters.set(name, value)
  parameters.set(MEMORY_ROWS, checkpoint.memoryRows)
  const config = claraConfig.parse({
    compr_rate: published.compr_rate,
    doc_max_length: published.doc_max_length,
    different_mem_tokens: published.different_mem_tokens,
    lora_r: lora.rank,
    lora_alpha: lora.alpha,
    generation_top_k: published.generation_top_k,
    max_new_tokens: published.max_new_tokens,
  })
  const hash = createHash('sha256').update(base.fingerprint).update(JSON.stringify(config))
  for (const name of [...parameters.keys()].sort()) {
    const { data } = parameters.get(name) as HostTensor
    hash.update(name).update(new Uint8Array(data.buffer, data.byteOffset, data.byteLength))
  }
  return {
    base,
    tokenizer,
    firstMemoryToken: checkpoint.firstMemoryToken,
    memoryTokens: memory.differentMemTokens ? memoryLength(config) : 1,
    config,
    parameters,
    idf: undefined,
    stage: published.training_stage,
    fingerprint: hash.digest('hex'),
  }
}

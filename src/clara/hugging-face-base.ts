/** A base model as a Hugging Face folder, from whatever file it lies in, so that transformers loads it. */
import { copyFile, mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { writeFileAtomic } from '../checkpoint/atomic.ts'
import { type SafetensorsWriteOptions, writeSafetensors } from '../checkpoint/safetensors.ts'
import type { WeightSource } from '../checkpoint/weights.ts'
import type { Tokenizer } from '../tokenizer/types.ts'

export interface HuggingFaceBaseOptions {
  readonly source: WeightSource
  readonly tokenizer: Tokenizer
  /** Tokens that end an answer. */
  readonly stopIds: readonly number[]
  /** Where the tokenizer's files lie. */
  readonly tokenizerFolder: string
  readonly folder: string
  /** How weights are stored. Default: float32, which keeps every number of a GGUF. */
  readonly float?: SafetensorsWriteOptions['float']
  /** Called with the name of each parameter before it is written. */
  readonly onParameter?: (name: string) => void
}

/** Files that a tokenizer may consist of; tokenizer.json is always there. */
const tokenizerFiles = [
  'tokenizer.json',
  'tokenizer_config.json',
  'special_tokens_map.json',
  'added_tokens.json',
  'chat_template.jinja',
  'vocab.json',
  'merges.txt',
  'tokenizer.model',
]

/**
 * Writes config.json, generation_config.json, model.safetensors and the tokenizer's files, one parameter in memory at a time;
 * config.json last, so that an unfinished folder is no model.
 */
export async function writeHuggingFaceBase(options: HuggingFaceBaseOptions): Promise<void> {
  const { source, tokenizer, folder, float = 'float32' } = options
  await mkdir(folder, { recursive: true })
  const tensors = new Map(
    source.names.map((name) => {
      const read = () => {
        options.onParameter?.(name)
        return source.read(name)
      }
      return [name, { dims: source.dims(name), read }] as const
    }),
  )
  // transformers refuses a file that does not say which framework it is for
  await writeSafetensors(join(folder, 'model.safetensors'), tensors, { format: 'pt' }, { float })
  for (const name of tokenizerFiles) {
    await copyFile(join(options.tokenizerFolder, name), join(folder, name)).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOENT') throw error
    })
  }
  const ids = {
    ...(tokenizer.bosId === undefined ? {} : { bos_token_id: tokenizer.bosId }),
    eos_token_id: options.stopIds.length === 1 ? options.stopIds[0] : options.stopIds,
    pad_token_id: tokenizer.padId,
  }
  await writeJson(join(folder, 'generation_config.json'), ids)
  await writeJson(join(folder, 'config.json'), { ...source.config, ...ids, torch_dtype: float })
}

export const writeJson = (path: string, value: unknown): Promise<void> =>
  writeFileAtomic(path, `${JSON.stringify(value, undefined, 2)}\n`)

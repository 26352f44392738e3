import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import type { Tokenizer } from '../tokenizer/types.ts'
import { readConfigJson } from './published-config.ts'

const id = z.number().int().min(0)
const ends = z.looseObject({ eos_token_id: z.union([id.transform((one) => [one]), z.array(id).min(1)]) })

/**
 * Tokens that end an answer of a base model in Hugging Face layout: `eos_token_id` of generation_config.json, which is what
 * the published code stops at and may be several, else of config.json, else the tokenizer's end of text.
 * @throws ClaraError when one of the files is not JSON or too large.
 */
export async function stopTokens(baseFolder: string, tokenizer: Tokenizer): Promise<readonly number[]> {
  for (const file of ['generation_config.json', 'config.json']) {
    const path = join(baseFolder, file)
    const exists = await stat(path).then(
      (facts) => facts.isFile(),
      () => false,
    )
    const parsed = exists ? ends.safeParse(await readConfigJson(path)) : undefined
    if (parsed?.success) return parsed.data.eos_token_id
  }
  return [tokenizer.eosId]
}

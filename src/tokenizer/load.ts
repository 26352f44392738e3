import { readFile, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { ClaraError } from '../errors.ts'
import { parseTokenizerJson, type TokenizerDefinition, type TokenizerJson } from './definition.ts'
import { createTokenizer } from './tokenizer.ts'
import type { Tokenizer } from './types.ts'

/** A token's name, alone or with its matching flags. */
const tokenName = z
  .union([z.string(), z.looseObject({ content: z.string() }).transform((token) => token.content)])
  .nullish()
  .transform((token) => token ?? undefined)

const addedTokenEntry = z.looseObject({
  content: z.string().min(1),
  lstrip: z.boolean().default(false),
  rstrip: z.boolean().default(false),
  special: z.boolean().default(false),
})

/** The fields of tokenizer_config.json and special_tokens_map.json that are read; both files hold many others. */
const configSchema = z.looseObject({
  bos_token: tokenName,
  eos_token: tokenName,
  pad_token: tokenName,
  unk_token: tokenName,
  additional_special_tokens: z.array(tokenName).nullish(),
  added_tokens_decoder: z.record(z.string().regex(/^\d{1,8}$/), addedTokenEntry).nullish(),
  clean_up_tokenization_spaces: z.boolean().nullish(),
  chat_template: z.union([z.string(), z.array(z.looseObject({ name: z.string(), template: z.string() }))]).nullish(),
})

type TokenizerConfig = z.infer<typeof configSchema>

const largestFileBytes = 128 * 1024 * 1024

/**
 * Reads a tokenizer in the Hugging Face layout: `tokenizer.json`, and beside it `tokenizer_config.json`,
 * `special_tokens_map.json` and `chat_template.jinja` where they exist.
 *
 * @param folder Folder of the model.
 * @throws ClaraError when a file is missing, too large or not what it should be; the message names file and field.
 */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const tokenizerPath = join(folder, 'tokenizer.json')
  const source = await readJson(tokenizerPath)
  if (source === undefined) {
    throw new ClaraError(`There is no tokenizer in ${folder}.`, {
      expected: 'a file tokenizer.json',
      hint: 'Name the folder that holds the base model, or use its GGUF file.',
    })
  }
  const json = parseTokenizerJson(source, tokenizerPath)
  const config = await readConfig(join(folder, 'tokenizer_config.json'))
  const map = await readConfig(join(folder, 'special_tokens_map.json'))
  const templateFile = await readText(join(folder, 'chat_template.jinja'))
  return createTokenizer(defineFromFiles(folder, json, config, map, templateFile))
}

function defineFromFiles(
  folder: string,
  json: TokenizerJson,
  config: TokenizerConfig,
  map: TokenizerConfig,
  templateFile: string | undefined,
): TokenizerDefinition {
  const additional = config.additional_special_tokens ?? map.additional_special_tokens ?? []
  return {
    source: folder,
    json: { ...json, added_tokens: mergeAddedTokens(json, config) },
    bosToken: config.bos_token ?? map.bos_token,
    eosToken: config.eos_token ?? map.eos_token,
    padToken: config.pad_token ?? map.pad_token,
    unkToken: config.unk_token ?? map.unk_token,
    additionalSpecialTokens: additional.filter((token) => token !== undefined),
    // The transformers default for a configuration that does not say.
    cleanUpTokenizationSpaces: config.clean_up_tokenization_spaces ?? false,
    chatTemplate: templateFile ?? namedTemplate(config.chat_template),
  }
}

/** tokenizer_config.json may list added tokens that tokenizer.json lacks. */
function mergeAddedTokens(json: TokenizerJson, config: TokenizerConfig): TokenizerJson['added_tokens'] {
  const known = new Set(json.added_tokens.map((token) => token.id))
  const more = Object.entries(config.added_tokens_decoder ?? {})
    .map(([id, token]) => ({ ...token, id: Number(id) }))
    .filter((token) => !known.has(token.id))
  return [...json.added_tokens, ...more]
}

/** A model may carry several templates; conversations use the one called `default`. */
function namedTemplate(template: TokenizerConfig['chat_template']): string | undefined {
  if (typeof template === 'string') return template
  return template?.find(({ name }) => name === 'default')?.template
}

async function readConfig(path: string): Promise<TokenizerConfig> {
  const parsed = configSchema.safeParse((await readJson(path)) ?? {})
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]
  throw new ClaraError(`${path} is not a tokenizer configuration.`, {
    received: issue === undefined ? 'something else' : `${issue.path.join('.') || 'the file'}: ${issue.message}`,
  })
}

async function readJson(path: string): Promise<unknown> {
  const text = await readText(path)
  if (text === undefined) return undefined
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new ClaraError(`${path} is not valid JSON.`, {
      hint: 'The download may be incomplete; fetch it again.',
      cause,
    })
  }
}

/** The file's text, or nothing where there is no such file. */
async function readText(path: string): Promise<string | undefined> {
  try {
    const { size } = await stat(path)
    if (size > largestFileBytes) {
      throw new ClaraError(`${path} is too large for a tokenizer file.`, {
        expected: `at most ${largestFileBytes} bytes`,
        received: `${size} bytes`,
      })
    }
    return await readFile(path, 'utf8')
  } catch (error) {
    if (error instanceof Error && 'code' in error && (error.code === 'ENOENT' || error.code === 'ENOTDIR'))
      return undefined
    throw error
  }
}

import { ClaraError } from '../errors.ts'
import { parseTokenizerJson, type TokenizerDefinition, type TokenizerJson } from './definition.ts'
import { createTokenizer } from './tokenizer.ts'
import type { Tokenizer } from './types.ts'

/** How text is cut before merging, and what else goes with it. GGUF files name it in `tokenizer.ggml.pre`. */
interface PreTokenization {
  readonly preTokenizer: TokenizerJson['pre_tokenizer']
  readonly normalizer?: TokenizerJson['normalizer']
  /** Whether a whole word that is in the vocabulary skips the merges. */
  readonly ignoreMerges?: boolean
}

const byteLevel = (useRegex: boolean) => ({
  type: 'ByteLevel',
  add_prefix_space: false,
  trim_offsets: true,
  use_regex: useRegex,
})

/** A step that cuts out every match, then bytes. */
const splitThenBytes = (pattern: string): PreTokenization['preTokenizer'] => ({
  type: 'Sequence',
  pretokenizers: [
    { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false },
    byteLevel(false),
  ],
})

const digitsThenWords: PreTokenization = {
  preTokenizer: {
    type: 'Sequence',
    pretokenizers: [{ type: 'Digits', individual_digits: true }, byteLevel(true)],
  },
}

const contraction = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
const spaces = '\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+'
const words = (digits: string) =>
  `${contraction}|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|${spaces}`
const llama3: PreTokenization = { preTokenizer: splitThenBytes(words('\\p{N}{1,3}')), ignoreMerges: true }
const upper = '[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]'
const lower = '[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]'
const casedWords = [
  `[^\\r\\n\\p{L}\\p{N}]?${upper}*${lower}+${contraction}?`,
  `[^\\r\\n\\p{L}\\p{N}]?${upper}+${lower}*${contraction}?`,
  '\\p{N}{1,3}',
  ' ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*',
  spaces,
].join('|')

const preTokenizations: ReadonlyMap<string, PreTokenization> = new Map([
  ['gpt-2', { preTokenizer: byteLevel(true) }],
  ['smollm', digitsThenWords],
  ['starcoder', digitsThenWords],
  ['llama-bpe', llama3],
  ['llama3', llama3],
  ['qwen2', { preTokenizer: splitThenBytes(words('\\p{N}')), normalizer: { type: 'NFC' } }],
  ['gpt-4o', { preTokenizer: splitThenBytes(casedWords) }],
])

/** Values of `tokenizer.ggml.token_type` that are not ordinary text. */
const controlToken = 3
const userDefinedToken = 4

/**
 * The tokenizer that a GGUF file carries in its metadata: byte-level BPE (`tokenizer.ggml.model` = `gpt2`).
 *
 * @param metadata The file's metadata by key, as its reader gives it.
 * @throws ClaraError when a key is missing or malformed, or the kind of tokenizer is not supported.
 */
export function tokenizerFromGguf(metadata: ReadonlyMap<string, unknown>): Tokenizer {
  const kind = metadata.get('tokenizer.ggml.model')
  if (kind !== 'gpt2') {
    throw new ClaraError('The tokenizer in this GGUF file is of a kind that cannot be built from its metadata.', {
      expected: "tokenizer.ggml.model to be 'gpt2' (byte-level BPE)",
      received: kind === undefined ? 'no such key' : `'${String(kind)}'`,
      hint: "Put the base model's tokenizer.json and tokenizer_config.json beside the GGUF file.",
    })
  }
  const name = metadata.get('tokenizer.ggml.pre')
  const pre = typeof name === 'string' ? preTokenizations.get(name) : undefined
  if (pre === undefined) {
    throw new ClaraError('The GGUF file cuts text into words in a way that is not known here.', {
      expected: `tokenizer.ggml.pre to be one of ${[...preTokenizations.keys()].join(', ')}`,
      received: name === undefined ? 'no such key' : `'${String(name)}'`,
      hint: "Put the base model's tokenizer.json and tokenizer_config.json beside the GGUF file.",
    })
  }
  return createTokenizer(defineFromMetadata(metadata, pre))
}

function defineFromMetadata(metadata: ReadonlyMap<string, unknown>, pre: PreTokenization): TokenizerDefinition {
  const source = 'the GGUF file'
  const tokens = listOf(metadata, 'tokenizer.ggml.tokens', 'string')
  const merges = listOf(metadata, 'tokenizer.ggml.merges', 'string')
  const types = metadata.has('tokenizer.ggml.token_type') ? listOf(metadata, 'tokenizer.ggml.token_type', 'number') : []
  const added = tokens.flatMap((content, id) => {
    const special = types[id] === controlToken
    return special || types[id] === userDefinedToken ? [{ id, content, special }] : []
  })
  const tokenAt = (key: string): string | undefined => {
    const id = metadata.get(key)
    if (id === undefined) return undefined
    const token = typeof id === 'number' ? tokens[id] : undefined
    if (token === undefined) throw malformed(key, `an id below ${tokens.length}`, String(id))
    return token
  }
  const template = metadata.get('tokenizer.chat_template')
  return {
    source,
    json: parseTokenizerJson(
      {
        added_tokens: added,
        normalizer: pre.normalizer,
        pre_tokenizer: pre.preTokenizer,
        decoder: byteLevel(true),
        model: {
          type: 'BPE',
          vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
          merges,
          ignore_merges: pre.ignoreMerges ?? false,
        },
      },
      source,
    ),
    bosToken: tokenAt('tokenizer.ggml.bos_token_id'),
    eosToken: tokenAt('tokenizer.ggml.eos_token_id'),
    padToken: tokenAt('tokenizer.ggml.padding_token_id'),
    unkToken: tokenAt('tokenizer.ggml.unknown_token_id'),
    additionalSpecialTokens: [],
    cleanUpTokenizationSpaces: false,
    chatTemplate: typeof template === 'string' ? template : undefined,
  }
}

interface ElementTypes {
  string: string
  number: number
}

function listOf<T extends keyof ElementTypes>(
  metadata: ReadonlyMap<string, unknown>,
  key: string,
  type: T,
): readonly ElementTypes[T][] {
  const value = metadata.get(key)
  const isElement = (item: unknown): item is ElementTypes[T] => typeof item === type
  if (!Array.isArray(value) || !value.every(isElement)) {
    throw malformed(key, `a list of ${type}s`, value === undefined ? 'no such key' : typeof value)
  }
  return value
}

function malformed(key: string, expected: string, received: string): ClaraError {
  return new ClaraError(`The GGUF file's metadata key ${key} is malformed.`, { expected, received })
}

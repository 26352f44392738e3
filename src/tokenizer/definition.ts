import { z } from 'zod'
import { ClaraError } from '../errors.ts'

/** A token outside the merges: matched in the text before the model sees it. */
const addedTokenSchema = z.object({
  id: z.int().min(0),
  content: z.string().min(1),
  lstrip: z.boolean().default(false),
  rstrip: z.boolean().default(false),
  special: z.boolean().default(false),
})

export type AddedToken = Readonly<z.infer<typeof addedTokenSchema>>

const component = z
  .looseObject({ type: z.string() })
  .nullish()
  .transform((value) => value ?? null)

/** The parts of tokenizer.json that are read here; the library reads the rest. */
const tokenizerJsonSchema = z.looseObject({
  added_tokens: z.array(addedTokenSchema).default([]),
  normalizer: component,
  pre_tokenizer: component,
  decoder: component,
  model: z.looseObject({
    type: z.literal('BPE').default('BPE'),
    vocab: z.record(z.string(), z.int().min(0)),
    merges: z.array(z.union([z.string(), z.tuple([z.string(), z.string()])])),
    unk_token: z.string().nullish(),
    byte_fallback: z.boolean().nullish(),
  }),
})

export type TokenizerJson = z.infer<typeof tokenizerJsonSchema>

/** Everything a tokenizer is made of, whichever file it came from. */
export interface TokenizerDefinition {
  /** Where it came from, for error messages. */
  readonly source: string
  readonly json: TokenizerJson
  readonly bosToken?: string | undefined
  readonly eosToken?: string | undefined
  readonly padToken?: string | undefined
  readonly unkToken?: string | undefined
  readonly additionalSpecialTokens: readonly string[]
  /** Whether decoding removes the spaces before punctuation. */
  readonly cleanUpTokenizationSpaces: boolean
  /** Jinja source of the chat template. */
  readonly chatTemplate?: string | undefined
}

/** Largest token id accepted; bounds what a damaged or hostile file can make us allocate. */
const largestId = (1 << 22) - 1

/** Checks the shape of a tokenizer.json value. Throws {@link ClaraError} that names the field at fault. */
export function parseTokenizerJson(value: unknown, source: string): TokenizerJson {
  const parsed = tokenizerJsonSchema.safeParse(value)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]
    throw new ClaraError(`${source} is not a tokenizer that can be read.`, {
      expected: 'a byte-pair encoding (BPE) tokenizer in the Hugging Face tokenizer.json layout',
      received: issue === undefined ? 'something else' : `${issue.path.join('.') || 'the file'}: ${issue.message}`,
    })
  }
  const ids = [...Object.values(parsed.data.model.vocab), ...parsed.data.added_tokens.map((token) => token.id)]
  const largest = ids.reduce((most, id) => Math.max(most, id), -1)
  if (largest > largestId || ids.length === 0) {
    throw new ClaraError(`${source} has an impossible vocabulary.`, {
      expected: `at least one token and ids up to ${largestId}`,
      received: ids.length === 0 ? 'no tokens' : `id ${largest}`,
    })
  }
  return parsed.data
}

/** Largest id + 1 over the model's vocabulary and the added tokens. */
export function vocabularySizeOf(json: TokenizerJson): number {
  const largestAdded = json.added_tokens.reduce((most, token) => Math.max(most, token.id), -1)
  return Object.values(json.model.vocab).reduce((most, id) => Math.max(most, id), largestAdded) + 1
}

/** The definition with more special tokens; those in the vocabulary keep their id, the others follow its end. */
export function addSpecialTokens(json: TokenizerJson, contents: Iterable<string>): TokenizerJson {
  const added = new Map(json.added_tokens.map((token) => [token.content, token]))
  let next = vocabularySizeOf(json)
  for (const content of contents) {
    const known = added.get(content)
    if (known?.special) continue
    const inModel = Object.hasOwn(json.model.vocab, content) ? json.model.vocab[content] : undefined
    const id = known?.id ?? inModel ?? next++
    added.set(content, { lstrip: false, rstrip: false, ...known, id, content, special: true })
  }
  return { ...json, added_tokens: [...added.values()] }
}

import { ClaraError } from '../errors.ts'
import { type ChatTemplate, compileChatTemplate } from './chat.ts'
import { cleanUpSpaces, streamIds, tokenDecoder } from './decode.ts'
import { type AddedToken, addSpecialTokens, type TokenizerDefinition, vocabularySizeOf } from './definition.ts'
import { isStructural, type PlainEncoder, plainEncoder } from './plain.ts'
import type { PromptText, Tokenizer } from './types.ts'

/** Builds a tokenizer from its definition. Throws {@link ClaraError} when it has no end-of-text token. */
export function createTokenizer(definition: TokenizerDefinition): Tokenizer {
  const named = nameSpecialTokens(definition)
  const specials = [named.bosToken, named.eosToken, named.padToken, named.unkToken, ...named.additionalSpecialTokens]
  const json = addSpecialTokens(
    named.json,
    specials.filter((token) => token !== undefined),
  )
  const shared = {
    baseVocabularySize: vocabularySizeOf(json),
    encodePlain: plainEncoder(json),
    template: chatTemplateOnce(named),
  }
  return assemble({ ...named, json }, shared)
}

/** What a tokenizer and those derived from it by adding tokens have in common. */
interface Shared {
  readonly baseVocabularySize: number
  readonly encodePlain: PlainEncoder
  readonly template: () => ChatTemplate
}

type NamedDefinition = TokenizerDefinition & { readonly eosToken: string; readonly padToken: string }

/** Fills in the named tokens that are missing, by the rules that the published checkpoints were trained with. */
function nameSpecialTokens(definition: TokenizerDefinition): NamedDefinition {
  const [first, second] = definition.additionalSpecialTokens
  const bosToken = definition.bosToken ?? first
  const eosToken = definition.eosToken ?? second
  if (eosToken === undefined) {
    throw new ClaraError(`The tokenizer of ${definition.source} has no end-of-text token.`, {
      expected: 'eos_token, or at least two additional special tokens',
      hint: 'Add eos_token to tokenizer_config.json.',
    })
  }
  return { ...definition, bosToken, eosToken, padToken: definition.padToken ?? bosToken ?? eosToken }
}

function chatTemplateOnce(definition: TokenizerDefinition): () => ChatTemplate {
  let compiled: ChatTemplate | undefined
  return () => {
    if (definition.chatTemplate === undefined) {
      throw new ClaraError(`The tokenizer of ${definition.source} has no chat template.`, {
        expected: 'chat_template in tokenizer_config.json, or a file chat_template.jinja beside it',
        hint: 'Use the instruction-tuned variant of this model.',
      })
    }
    compiled ??= compileChatTemplate(definition.chatTemplate, definition.source)
    return compiled
  }
}

function assemble(definition: NamedDefinition, shared: Shared): Tokenizer {
  const { json, bosToken, eosToken, padToken } = definition
  const tokens: (string | undefined)[] = []
  const ids = new Map<string, number>()
  for (const [token, id] of Object.entries(json.model.vocab)) ids.set(token, id)
  for (const { content, id } of json.added_tokens) ids.set(content, id)
  for (const [token, id] of ids) tokens[id] = token
  const specialIds = new Set(json.added_tokens.filter((token) => token.special).map((token) => token.id))
  const vocabularySize = vocabularySizeOf(json)
  const decodeTokens = tokenDecoder(json)
  const splitter = specialSplitter(json.added_tokens)

  const idOfNamed = (token: string): number => {
    const id = ids.get(token)
    if (id === undefined) throw new Error(`${token} was added to the vocabulary and is not in it`)
    return id
  }
  const tokenOf = (id: number, skipSpecials: boolean): string | undefined =>
    skipSpecials && specialIds.has(id) ? undefined : tokens[id]

  function encodeParts(parts: PromptText): number[] {
    return splitter(parts).flatMap((piece, index) =>
      typeof piece === 'string' ? shared.encodePlain(piece, index === 0) : [piece.id],
    )
  }

  return {
    baseVocabularySize: shared.baseVocabularySize,
    vocabularySize,
    bosToken,
    bosId: bosToken === undefined ? undefined : idOfNamed(bosToken),
    eosToken,
    eosId: idOfNamed(eosToken),
    padId: idOfNamed(padToken),
    idOf: (token) => ids.get(token),
    isSpecial: (id) => specialIds.has(id),
    encode: (text, options) => encodeParts([{ text, trusted: options?.specials === 'parse' }]),
    encodeParts,
    decode(sequence, options) {
      const skip = options?.skipSpecials ?? false
      const kept = Array.from(sequence, (id) => tokenOf(id, skip)).filter((token) => token !== undefined)
      const text = decodeTokens(kept)
      return definition.cleanUpTokenizationSpaces ? cleanUpSpaces(text) : text
    },
    streamDecoder(options) {
      const skip = options?.skipSpecials ?? false
      return streamIds(decodeTokens, definition.cleanUpTokenizationSpaces, (id) => tokenOf(id, skip))
    },
    renderChat: (messages, options) =>
      shared.template()(messages, {
        variables: templateVariables(definition),
        addGenerationPrompt: options?.addGenerationPrompt ?? false,
      }),
    withAddedTokens(added) {
      const extended = addSpecialTokens(json, added)
      // A new token that merging could spell needs an encoder that no longer does.
      const spelled = added.some((token) => Object.hasOwn(json.model.vocab, token))
      const encodePlain = spelled ? plainEncoder(extended) : shared.encodePlain
      return assemble({ ...definition, json: extended }, { ...shared, encodePlain })
    },
  }
}

/** The named tokens as a chat template sees them; those the model lacks stay undefined. */
function templateVariables(definition: NamedDefinition): Record<string, string> {
  const named = {
    bos_token: definition.bosToken,
    eos_token: definition.eosToken,
    pad_token: definition.padToken,
    unk_token: definition.unkToken,
  }
  return Object.fromEntries(Object.entries(named).filter((entry): entry is [string, string] => entry[1] !== undefined))
}

/**
 * Splits a prompt into structural tokens and runs of ordinary characters, leftmost and longest first. A token counts only
 * where all its characters are trusted; runs join across parts, so that tokens may still merge over a boundary.
 */
function specialSplitter(addedTokens: readonly AddedToken[]): (parts: PromptText) => (string | AddedToken)[] {
  const structural = new Map(addedTokens.filter(({ content }) => isStructural(content)).map((t) => [t.content, t]))
  const byLength = [...structural.keys()].sort((one, other) => other.length - one.length)
  const pattern = byLength.length === 0 ? undefined : new RegExp(`(${byLength.map(escapePattern).join('|')})`, 'u')

  return (parts) => {
    const pieces: (string | AddedToken)[] = []
    const appendText = (text: string) => {
      const last = pieces.at(-1)
      if (typeof last === 'string') pieces[pieces.length - 1] = last + text
      else pieces.push(text)
    }
    for (const stretch of joinTrusted(parts)) {
      if (!stretch.trusted || pattern === undefined) {
        appendText(stretch.text)
        continue
      }
      for (const piece of stretch.text.split(pattern)) {
        const token = structural.get(piece)
        if (token !== undefined) pieces.push(token)
        else if (piece !== '') appendText(piece)
      }
    }
    return stripAroundTokens(pieces)
  }
}

/** Neighbouring trusted parts as one: a token may lie across their boundary. Empty parts fall away. */
function joinTrusted(parts: PromptText): PromptText {
  const joined: { text: string; trusted: boolean }[] = []
  for (const { text, trusted } of parts) {
    if (text === '') continue
    const last = joined.at(-1)
    if (last?.trusted === trusted) last.text += text
    else joined.push({ text, trusted })
  }
  return joined
}

/** Some tokens swallow the white space beside them. A run that opens the text keeps its place even where nothing is left. */
function stripAroundTokens(pieces: readonly (string | AddedToken)[]): (string | AddedToken)[] {
  return pieces.map((piece, index) => {
    if (typeof piece !== 'string') return piece
    const [before, after] = [pieces[index - 1], pieces[index + 1]]
    const start = typeof before === 'object' && before.rstrip ? piece.trimStart() : piece
    return typeof after === 'object' && after.lstrip ? start.trimEnd() : start
  })
}

function escapePattern(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/]/g, '\\$&')
}

import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers'
import type { TokenizerJson } from './definition.ts'
import type { StreamDecoder } from './types.ts'

/** The one call that every decoding step of the library answers. */
interface DecodingStep {
  decode_chain(tokens: string[]): string[]
}

/** Joins token strings into text. */
export type TokenDecoder = (tokens: readonly string[]) => string

const byteToken = /^<0x([0-9A-Fa-f]{2})>$/

/**
 * A run of byte tokens is text if it is valid UTF-8 as a whole, and otherwise one replacement character a byte, as in the
 * Rust tokenizers; the JavaScript library drops byte-order marks and replaces invalid runs differently.
 */
const byteFallback: DecodingStep = {
  decode_chain(tokens) {
    const utf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
    const pieces: string[] = []
    let bytes: number[] = []
    const flush = () => {
      if (bytes.length === 0) return
      try {
        pieces.push(utf8.decode(Uint8Array.from(bytes)))
      } catch {
        pieces.push('\uFFFD'.repeat(bytes.length))
      }
      bytes = []
    }
    for (const token of tokens) {
      const digits = byteToken.exec(token)?.[1]
      if (digits === undefined) {
        flush()
        pieces.push(token)
      } else {
        bytes.push(Number.parseInt(digits, 16))
      }
    }
    flush()
    return pieces
  },
}

/** The decoder that tokenizer.json describes. */
export function tokenDecoder(json: TokenizerJson): TokenDecoder {
  if (json.decoder === null) return (tokens) => tokens.join(' ')
  // The library builds decoders only inside a tokenizer; an empty vocabulary makes that cheap.
  const library = new LibraryTokenizer(
    {
      added_tokens: json.added_tokens,
      normalizer: null,
      pre_tokenizer: null,
      post_processor: null,
      decoder: json.decoder,
      model: { type: 'BPE', vocab: {}, merges: [] },
    },
    {},
  )
  const decoder = library.decoder as (DecodingStep & { decoders?: DecodingStep[] }) | null
  if (decoder === null) return (tokens) => tokens.join(' ')
  const step = json.decoder.type === 'ByteFallback' ? byteFallback : decoder
  const members = json.decoder.decoders
  if (decoder.decoders !== undefined && Array.isArray(members)) {
    decoder.decoders = decoder.decoders.map((member, index) =>
      members[index]?.type === 'ByteFallback' ? byteFallback : member,
    )
  }
  return (tokens) => (tokens.length === 0 ? '' : step.decode_chain([...tokens]).join(''))
}

/** Removes the spaces that word-level training corpora put before punctuation, in the order in which transformers does. */
export function cleanUpSpaces(text: string): string {
  const replacements = [' .', ' ?', ' !', ' ,', " ' ", " n't", " 'm", " 's", " 've", " 're"]
  return replacements.reduce((cleaned, found) => cleaned.replaceAll(found, found.trim()), text)
}

/**
 * Decodes token by token. A chunk goes out when the text no longer ends inside a character; the chunk before it is decoded
 * along with the next one, so that rules for the start of a text apply only once.
 */
function streamTokens(decode: TokenDecoder, cleanUp: boolean): { push(token: string): string; finish(): string } {
  let context: string[] = []
  let pending: string[] = []
  let uncleaned = ''

  function decodePending(): string {
    const text = decode([...context, ...pending]).slice(decode(context).length)
    context = pending
    pending = []
    return text
  }
  function release(text: string, last: boolean): string {
    if (!cleanUp) return text
    uncleaned += text
    const end = last ? uncleaned.length : lastSafeCut(uncleaned)
    const released = cleanUpSpaces(uncleaned.slice(0, end))
    uncleaned = uncleaned.slice(end)
    return released
  }
  return {
    push(token) {
      pending.push(token)
      // The bytes that follow decide whether a run of byte tokens is valid.
      if (byteToken.test(token) || decode([...context, ...pending]).endsWith('\uFFFD')) return ''
      return release(decodePending(), false)
    },
    finish() {
      return release(pending.length === 0 ? '' : decodePending(), true)
    },
  }
}

/** The last place where cleaning the two halves apart gives the same text: before a space that no clean-up rule can touch. */
function lastSafeCut(text: string): number {
  let cut = 0
  for (const match of text.matchAll(/(?<!['\s]) (?=[^\s.?!,'n])/g)) cut = match.index
  return cut
}

/** A stream over ids. `tokenOf` gives a token's string, or nothing for an id that is left out. */
export function streamIds(
  decode: TokenDecoder,
  cleanUp: boolean,
  tokenOf: (id: number) => string | undefined,
): StreamDecoder {
  const stream = streamTokens(decode, cleanUp)
  return {
    push(id) {
      const token = tokenOf(id)
      return token === undefined ? '' : stream.push(token)
    },
    finish: () => stream.finish(),
  }
}

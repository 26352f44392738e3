import { Tokenizer as LibraryTokenizer } from '@huggingface/tokenizers'
import type { TokenizerJson } from './definition.ts'

/**
 * Whether an added token is one that a user's text must never produce. Runs of white space that a tokenizer lists as added
 * tokens are text; everything else (turn markers, memory tokens, tool tags) is structure, whatever its `special` flag says.
 */
export function isStructural(content: string): boolean {
  return /\S/u.test(content)
}

/** Encodes a run of ordinary characters. `first`: the run opens the text, which some tokenizers mark with a space. */
export type PlainEncoder = (run: string, first: boolean) => number[]

/** An encoder that knows no structural token at all: not as a string to look for, not as an outcome of merging. */
export function plainEncoder(json: TokenizerJson): PlainEncoder {
  const plain = withUnicodeClasses(withoutStructuralTokens(json))
  const opening = new LibraryTokenizer(plain, {})
  const laterJson = withoutFirstPrefix(plain)
  const later = laterJson === plain ? opening : new LibraryTokenizer(laterJson, {})
  return (run, first) => (first ? opening : later).encode(run, { add_special_tokens: false }).ids
}

function withoutStructuralTokens(json: TokenizerJson): TokenizerJson {
  const kept = new Set<string>()
  if (typeof json.model.unk_token === 'string') kept.add(json.model.unk_token)
  const removed = new Set<string>()
  for (const { content } of json.added_tokens) {
    const isByte = json.model.byte_fallback === true && /^<0x[0-9A-F]{2}>$/.test(content)
    if (isStructural(content) && !isByte && !kept.has(content)) removed.add(content)
  }
  const merges = json.model.merges.filter((merge) => {
    const pair = typeof merge === 'string' ? merge.split(' ', 2) : merge
    const merged = pair.join('')
    return !removed.has(merged) && !kept.has(merged)
  })
  const vocab = Object.fromEntries(Object.entries(json.model.vocab).filter(([token]) => !removed.has(token)))
  return {
    ...json,
    added_tokens: json.added_tokens.filter(({ content }) => !isStructural(content)),
    model: { ...json.model, vocab, merges },
    post_processor: null,
  }
}

/** Metaspace with `first` marks only the text's opening; a run after a special token must go without. */
function withoutFirstPrefix(json: TokenizerJson): TokenizerJson {
  return changePreTokenizer(json, (part) =>
    part.type === 'Metaspace' && part.prepend_scheme === 'first' ? { ...part, prepend_scheme: 'never' } : part,
  )
}

/** How byte-level BPE cuts text into words where tokenizer.json does not say (GPT-2's rule). */
const byteLevelWords = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/**
 * Two steps of the library differ from the original outside ASCII: Digits knows only 0 to 9, and ByteLevel's own word rule has
 * JavaScript's idea of white space (a byte-order mark is, NEL is not). Its Split step translates patterns faithfully.
 */
function withUnicodeClasses(json: TokenizerJson): TokenizerJson {
  return changePreTokenizer(json, (part) => {
    if (part.type === 'Digits') return split(part.individual_digits === true ? '\\p{N}' : '\\p{N}+')
    if (part.type !== 'ByteLevel' || part.use_regex === false || part.add_prefix_space !== false) return part
    return { type: 'Sequence', pretokenizers: [split(byteLevelWords), { ...part, use_regex: false }] }
  })
}

function split(pattern: string): Component {
  return { type: 'Split', pattern: { Regex: pattern }, behavior: 'Isolated', invert: false }
}

function changePreTokenizer(json: TokenizerJson, change: (part: Component) => Component): TokenizerJson {
  if (json.pre_tokenizer === null) return json
  const changed = changeComponent(json.pre_tokenizer, change)
  return changed === json.pre_tokenizer ? json : { ...json, pre_tokenizer: changed }
}

type Component = NonNullable<TokenizerJson['pre_tokenizer']>

/** Applies a change to a pre-tokenizer or to each member of a sequence of them; the same object where nothing changed. */
function changeComponent(part: Component, change: (part: Component) => Component): Component {
  const members = part.pretokenizers
  if (part.type !== 'Sequence' || !Array.isArray(members)) return change(part)
  const changed = members.map((member: Component) => changeComponent(member, change))
  return changed.every((member, index) => member === members[index]) ? part : { ...part, pretokenizers: changed }
}

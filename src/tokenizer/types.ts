/** A stretch of a prompt and where it came from. */
export interface PromptPart {
  readonly text: string
  /**
   * `true`: written by this program or by a chat template, so special tokens in it mean what they say.
   * `false`: somebody's text; whatever it contains is ordinary characters.
   */
  readonly trusted: boolean
}

/** A prompt that remembers which stretches were somebody's text. */
export type PromptText = readonly PromptPart[]

/** One turn of a conversation. A plain string counts as untrusted text. */
export interface ChatMessage {
  readonly role: 'system' | 'user' | 'assistant'
  readonly content: string | PromptText
}

/** How special-token strings inside a text are read: as ordinary characters, or as the tokens they name. */
export type SpecialsReading = 'plain' | 'parse'

export interface DecodeOptions {
  /** Leave special tokens out of the text. Default `false`. */
  readonly skipSpecials?: boolean
}

/** Turns a growing sequence of ids into text. What `push` and `finish` return, joined, equals `decode` of all the ids. */
export interface StreamDecoder {
  /** Text that has become certain with this id; empty while a character is still incomplete. */
  push(id: number): string
  /** Whatever was still held back. */
  finish(): string
}

/** Text to token ids and back, with the chat template of the model it belongs to. */
export interface Tokenizer {
  /** Length of the vocabulary before {@link Tokenizer.withAddedTokens} added to it. */
  readonly baseVocabularySize: number
  /** Largest id + 1; ids of tokens added next start here. */
  readonly vocabularySize: number
  readonly bosToken: string | undefined
  readonly bosId: number | undefined
  readonly eosToken: string
  readonly eosId: number
  /** Padding id; the bos token's where the model names no padding token. */
  readonly padId: number
  /** Id of a token by its exact string, added tokens included. */
  idOf(token: string): number | undefined
  /** Whether an id is a special token, that is, one that `skipSpecials` leaves out. */
  isSpecial(id: number): boolean
  /** Ids of a text; no bos or eos is added. By default special-token strings in it are ordinary characters. */
  encode(text: string, options?: { readonly specials?: SpecialsReading }): number[]
  /**
   * Ids of the concatenated parts; a special token is recognised only where it lies wholly inside trusted text.
   * Where untrusted text contains no special-token string, the ids are those of the whole string read in the ordinary way.
   */
  encodeParts(parts: PromptText): number[]
  /** Text of ids. Ids outside the vocabulary are left out; no ids give an empty string. */
  decode(ids: Iterable<number>, options?: DecodeOptions): string
  streamDecoder(options?: DecodeOptions): StreamDecoder
  /**
   * Renders a conversation with the model's chat template. `addGenerationPrompt` opens the assistant's turn.
   * A template that refuses a system role gets system and user text, joined by a newline, in one user turn.
   */
  renderChat(messages: readonly ChatMessage[], options?: { readonly addGenerationPrompt?: boolean }): PromptText
  /** A tokenizer that also knows these special tokens, with ids from `vocabularySize` on; known tokens keep their id. */
  withAddedTokens(tokens: readonly string[]): Tokenizer
}

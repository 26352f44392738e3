import { describe, expect, test } from 'vitest'
import { openGguf } from '../../src/checkpoint/gguf.ts'
import { tokenizerFromGguf } from '../../src/tokenizer/gguf.ts'
import { loadTokenizer } from '../../src/tokenizer/load.ts'
import type { ChatMessage, Tokenizer } from '../../src/tokenizer/types.ts'
import { modelFile, modelFolder, parityBase, readTestJson, textOf } from './support.ts'

interface Reference {
  tokenize: { text: string; ids: number[] }[]
  decode: string[]
  generate: { messages: ChatMessage[]; prompt: string; prompt_ids: number[] }[]
}

interface RustCases {
  encode: [text: string, ids: number[]][]
  decode: [ids: number[], kept: string, skipped: string][]
}

const reference = await readTestJson<Reference>('fixtures', 'reference.json')
const rust = await readTestJson<{ folders: Record<string, RustCases>; gguf: Record<string, RustCases> }>(
  'tokenizer',
  'rust-tokenizers.json',
)
await using gguf = await openGguf(modelFile)
const metadata = gguf.metadata

function withWordRule(name: string): Tokenizer {
  return tokenizerFromGguf(new Map([...metadata, ['tokenizer.ggml.pre', name]]))
}

describe.each([
  ['tokenizer.json', await loadTokenizer(modelFolder)],
  ['GGUF metadata', tokenizerFromGguf(metadata)],
])('the embedded model, from %s', (_, tokenizer) => {
  test.each(reference.tokenize.map(({ text, ids }, index) => [text, ids, reference.decode[index]] as const))(
    'reads %j as the reference does, and writes it back',
    (text, ids, decoded) => {
      expect(tokenizer.encode(text, { specials: 'parse' })).toEqual(ids)
      expect(tokenizer.decode(ids)).toBe(decoded)
    },
  )

  test.each(reference.generate)('renders and reads the prompt $prompt', ({ messages, prompt, prompt_ids }) => {
    const rendered = tokenizer.renderChat(messages, { addGenerationPrompt: true })
    expect(textOf(rendered)).toBe(prompt)
    expect(tokenizer.encodeParts(rendered)).toEqual(prompt_ids)
  })

  test('knows its named tokens and its size', () => {
    expect(tokenizer).toMatchObject({ bosToken: '<|im_start|>', bosId: 1, eosToken: '<|im_end|>', eosId: 2, padId: 2 })
    expect(tokenizer).toMatchObject({ vocabularySize: 49_152, baseVocabularySize: 49_152 })
  })
})

const folders = Object.entries(rust.folders).map(
  ([name, cases]) => [name, cases, () => loadTokenizer(name === 'models' ? modelFolder : parityBase(name))] as const,
)
const wordRules = Object.entries(rust.gguf).map(
  ([name, cases]) => [`GGUF word rule ${name}`, cases, async () => withWordRule(name)] as const,
)

test.each([...folders, ...wordRules])('%s agrees with the Rust tokenizers', async (_, cases, load) => {
  const tokenizer = await load()
  for (const [text, ids] of cases.encode) expect(tokenizer.encode(text, { specials: 'parse' }), text).toEqual(ids)
  for (const [ids, kept, skipped] of cases.decode) {
    expect(tokenizer.decode(ids), String(ids)).toBe(kept)
    expect(tokenizer.decode(ids, { skipSpecials: true }), String(ids)).toBe(skipped)
  }
})

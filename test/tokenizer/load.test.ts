import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { ClaraError } from '../../src/errors.ts'
import { tokenizerFromGguf } from '../../src/tokenizer/gguf.ts'
import { loadTokenizer } from '../../src/tokenizer/load.ts'
import { folderOf, parityBase, textOf, tokenizerWith } from './support.ts'

const named = { bos_token: '<|im_start|>', eos_token: '<|im_end|>' }

async function expectRefusal(work: () => Promise<unknown>, pattern: RegExp): Promise<void> {
  const error: unknown = await work().then(
    () => undefined,
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(ClaraError)
  expect(String(error)).toMatch(pattern)
}

describe('named tokens', () => {
  test('may be objects, and a missing padding token becomes bos', async () => {
    const folder = await tokenizerWith({ ...named, bos_token: { content: '<|im_start|>', lstrip: false } })
    expect(await loadTokenizer(folder)).toMatchObject({ bosId: 1, eosId: 2, padId: 1 })
    expect(await loadTokenizer(parityBase('mistral-1'))).toMatchObject({
      bosToken: '<s>',
      bosId: 1,
      eosId: 2,
      padId: 1,
    })
  })

  test('that are missing are the first and second additional special token', async () => {
    const additional_special_tokens = ['<|im_end|>', '<|im_start|>']
    const folder = await tokenizerWith({ bos_token: null, eos_token: null, additional_special_tokens })
    expect(await loadTokenizer(folder)).toMatchObject({ bosId: 2, eosId: 1, padId: 2 })
    const partly = await tokenizerWith({ eos_token: '<|endoftext|>', additional_special_tokens })
    expect(await loadTokenizer(partly)).toMatchObject({ bosId: 2, eosId: 0 })
  })

  test('may stand in special_tokens_map.json', async () => {
    const folder = await tokenizerWith({}, { 'special_tokens_map.json': { ...named, pad_token: '<|endoftext|>' } })
    expect(await loadTokenizer(folder)).toMatchObject({ bosId: 1, eosId: 2, padId: 0 })
  })

  test('that the vocabulary lacks are added to it', async () => {
    const plain = await loadTokenizer(await tokenizerWith(named))
    const padded = await loadTokenizer(await tokenizerWith({ ...named, pad_token: '<pad>' }))
    expect(padded.padId).toBe(plain.vocabularySize)
    expect(padded.baseVocabularySize).toBe(plain.vocabularySize + 1)
  })

  test('without an end of text are refused', async () => {
    await expectRefusal(async () => loadTokenizer(await tokenizerWith({})), /no end-of-text token.*eos_token/)
  })
})

test('tokens that only the configuration lists are known', async () => {
  const tool = { '2000': { content: '<tool>', special: false, rstrip: true } }
  const tokenizer = await loadTokenizer(await tokenizerWith({ ...named, added_tokens_decoder: tool }))
  expect(tokenizer.encode('<tool>  a', { specials: 'parse' })).toEqual([2000, ...tokenizer.encode('a')])
  expect(tokenizer.encode('<tool>')).not.toContain(2000)
  expect(tokenizer.decode([2000], { skipSpecials: true })).toBe('<tool>')
  expect(tokenizer.vocabularySize).toBe(2001)
})

test('a sentence-piece style tokenizer marks the opening of the text alone', async () => {
  const folder = await folderOf({
    'tokenizer.json': {
      pre_tokenizer: { type: 'Metaspace', replacement: '▁', prepend_scheme: 'first', split: false },
      added_tokens: [{ id: 4, content: '</s>', special: true }],
      model: { type: 'BPE', vocab: { '▁': 0, a: 1, '▁a': 2, b: 3 }, merges: ['▁ a'] },
    },
    'tokenizer_config.json': { eos_token: '</s>' },
  })
  const tokenizer = await loadTokenizer(folder)
  expect(tokenizer.encode('a')).toEqual([2])
  expect(tokenizer.encode('a</s>a a', { specials: 'parse' })).toEqual([2, 4, 1, 2])
})

describe('the chat template', () => {
  const conversation = [{ role: 'user', content: 'Hi' }] as const

  test('of a file wins over that of the configuration', async () => {
    const folder = await tokenizerWith({ ...named, chat_template: 'config' }, { 'chat_template.jinja': 'file' })
    expect(textOf((await loadTokenizer(folder)).renderChat(conversation))).toBe('file')
  })

  test('among several is the one called default', async () => {
    const chat_template = [
      { name: 'tool_use', template: 'tools' },
      { name: 'default', template: 'talk' },
    ]
    const tokenizer = await loadTokenizer(await tokenizerWith({ ...named, chat_template }))
    expect(textOf(tokenizer.renderChat(conversation))).toBe('talk')
  })

  test('is asked for only when it is needed', async () => {
    const tokenizer = await loadTokenizer(await tokenizerWith(named))
    expect(() => tokenizer.renderChat(conversation)).toThrow(/no chat template.*chat_template\.jinja/)
  })
})

describe('files at fault are named', () => {
  test('a folder without a tokenizer', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'empty-'))
    await expectRefusal(() => loadTokenizer(folder), /no tokenizer in .*empty-.*tokenizer\.json/)
    await rm(folder, { recursive: true })
  })

  test.each([
    ['half a file', '{"model": ', /tokenizer\.json is not valid JSON/],
    ['another kind of model', { model: { type: 'WordPiece', vocab: {} } }, /cannot|not a tokenizer.*model\.type/],
    ['a vocabulary that is none', { model: { type: 'BPE', vocab: { a: -1 }, merges: [] } }, /model\.vocab\.a/],
    [
      'an enormous id',
      { model: { type: 'BPE', vocab: { a: 2 ** 40 }, merges: [] } },
      /impossible vocabulary.*1099511627776/,
    ],
    ['no tokens', { model: { type: 'BPE', vocab: {}, merges: [] } }, /impossible vocabulary.*no tokens/],
  ])('%s', async (_, json, pattern) => {
    await expectRefusal(async () => loadTokenizer(await folderOf({ 'tokenizer.json': json })), pattern)
  })

  test('a configuration of the wrong shape', async () => {
    await expectRefusal(
      async () => loadTokenizer(await tokenizerWith({ eos_token: 5 })),
      /tokenizer_config\.json is not a tokenizer configuration.*eos_token/,
    )
  })
})

describe('GGUF metadata', () => {
  const sound: Readonly<Record<string, unknown>> = {
    'tokenizer.ggml.model': 'gpt2',
    'tokenizer.ggml.pre': 'gpt-2',
    'tokenizer.ggml.tokens': ['a', 'b', 'ab', '<end>', '<note>'],
    'tokenizer.ggml.merges': ['a b'],
    'tokenizer.ggml.token_type': [1, 1, 1, 3, 4],
    'tokenizer.ggml.eos_token_id': 3,
  }
  const from = (changes: Readonly<Record<string, unknown>> = {}) =>
    tokenizerFromGguf(new Map(Object.entries({ ...sound, ...changes })))

  test('gives control tokens that are special and user-defined ones that are not', () => {
    const tokenizer = from()
    expect(tokenizer.encode('ab<end><note>', { specials: 'parse' })).toEqual([2, 3, 4])
    expect([3, 4].map((id) => tokenizer.isSpecial(id))).toEqual([true, false])
    expect(tokenizer).toMatchObject({ bosId: undefined, eosId: 3, padId: 3 })
  })

  test.each([
    ['tokenizer.ggml.model', 'llama', /expected.*gpt2.*'llama'.*tokenizer\.json/i],
    ['tokenizer.ggml.pre', 'unheard-of', /one of gpt-2, smollm.*'unheard-of'/],
    ['tokenizer.ggml.tokens', undefined, /tokenizer\.ggml\.tokens is malformed.*no such key/],
    ['tokenizer.ggml.tokens', ['a', 1], /tokenizer\.ggml\.tokens is malformed.*list of strings/],
    ['tokenizer.ggml.eos_token_id', 99, /tokenizer\.ggml\.eos_token_id is malformed.*below 5.*99/],
    ['tokenizer.ggml.eos_token_id', undefined, /no end-of-text token/],
  ])('with %s = %j is refused', (key, value, pattern) => {
    expect(() => from({ [key]: value })).toThrow(pattern)
  })
})

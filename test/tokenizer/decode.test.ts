import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { loadTokenizer } from '../../src/tokenizer/load.ts'
import type { Tokenizer } from '../../src/tokenizer/types.ts'
import { modelFolder, parityBase, readTestJson, tokenizerWith } from './support.ts'

const smollm = await loadTokenizer(modelFolder)
const mistral = await loadTokenizer(parityBase('mistral-1'))

function streamed(tokenizer: Tokenizer, ids: readonly number[], skipSpecials = false): string[] {
  const stream = tokenizer.streamDecoder({ skipSpecials })
  return [...ids.map((id) => stream.push(id)), stream.finish()]
}

test('no ids are no text, and ids outside the vocabulary leave none', () => {
  expect(smollm.decode([])).toBe('')
  expect(smollm.decode([2], { skipSpecials: true })).toBe('')
  expect(smollm.decode([10_000_000, -1])).toBe('')
  expect(smollm.streamDecoder().finish()).toBe('')
})

test('typed arrays decode like lists', () => {
  const ids = smollm.encode('Kraków – 東京')
  expect(smollm.decode(Int32Array.from(ids))).toBe('Kraków – 東京')
})

describe.each([
  ['byte-level', smollm],
  ['byte fallback', mistral],
])('a stream of %s tokens', (_, tokenizer) => {
  test('joins to the text of all ids, whatever they are', () => {
    const id = fc.integer({ min: 0, max: tokenizer.vocabularySize + 3 })
    // Low ids are special tokens and single bytes, where characters break.
    const ids = fc.array(fc.oneof(id, fc.integer({ min: 0, max: 400 })), { maxLength: 15 })
    fc.assert(
      fc.property(ids, fc.boolean(), (all, skipSpecials) => {
        expect(streamed(tokenizer, all, skipSpecials).join('')).toBe(tokenizer.decode(all, { skipSpecials }))
      }),
      { numRuns: 300 },
    )
  })

  test('never emits a part of a character', () => {
    const text = '👩‍👩‍👧 and 🇳🇴, Ж, 東京, हिन्दी'
    const pieces = streamed(tokenizer, tokenizer.encode(text))
    expect(pieces.join('')).toBe(text)
    expect(pieces.filter((piece) => piece.includes('\uFFFD'))).toEqual([])
  })
})

test('a stream gives words as they become certain, not all at the end', () => {
  const pieces = streamed(smollm, smollm.encode('The opera house in Oslo'))
  expect(pieces.slice(0, -1)).toEqual(['The', ' opera', ' house', ' in', ' Oslo'])
})

describe('where the configuration asks to clean up spaces', () => {
  const words = ['a', 'n', "n't", "'s", "'", ' ', ' .', ' ?', ' ,', ' !', " '", "'re", ' do', ' go', "'m", 's']

  async function cleaning(): Promise<Tokenizer> {
    const config = await readTestJson<object>('fixtures', 'parity', 'llama-3', 'base', 'tokenizer_config.json')
    return loadTokenizer(await tokenizerWith({ ...config, clean_up_tokenization_spaces: true }))
  }

  test('spaces before punctuation and contractions go', async () => {
    const tokenizer = await cleaning()
    const text = "They do n't know , do they ? It 's a ' quoted ' word !"
    expect(tokenizer.decode(tokenizer.encode(text))).toBe("They don't know, do they? It's a'quoted'word!")
  })

  test('a stream cleans up as the whole text does', async () => {
    const tokenizer = await cleaning()
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...words), { maxLength: 14 }), (parts) => {
        const ids = parts.flatMap((part) => tokenizer.encode(part))
        expect(streamed(tokenizer, ids).join('')).toBe(tokenizer.decode(ids))
      }),
      { numRuns: 500 },
    )
  })

  test('a stream still gives text before the end', async () => {
    const tokenizer = await cleaning()
    const pieces = streamed(tokenizer, tokenizer.encode('one two three four'))
    expect(pieces.slice(0, -1).join('')).toBe('one two three')
  })
})

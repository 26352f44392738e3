import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { loadTokenizer } from '../../src/tokenizer/load.ts'
import type { PromptPart } from '../../src/tokenizer/types.ts'
import { modelFolder, parityBase, textOf } from './support.ts'

const added = ['<MEM0>', '<MEM1>', '<AE>', '<ENC>', '<SEP>']
const smollm = (await loadTokenizer(modelFolder)).withAddedTokens(added)
const mistral = (await loadTokenizer(parityBase('mistral-1'))).withAddedTokens(added)

const cases = [
  { name: 'byte-level', tokenizer: smollm, specials: ['<|im_start|>', '<|im_end|>', '<repo_name>', ...added] },
  { name: 'byte fallback', tokenizer: mistral, specials: ['<s>', '</s>', '<unk>', '<0x41>', ...added] },
]
const ordinary = ['Hello', ' world', ' ', '\n', '12', 'é', '東京', '😀', "don't", '#', 'a']

/** Parts made of words, special tokens and the halves of special tokens, so that some arise only across a boundary. */
function partsOf(specials: readonly string[]): fc.Arbitrary<PromptPart[]> {
  const halves = specials.flatMap((token) => [token.slice(0, 3), token.slice(3), '<', '|', '>'])
  const text = fc
    .array(fc.constantFrom(...specials, ...halves, ...ordinary), { maxLength: 5 })
    .map((all) => all.join(''))
  return fc.array(fc.record({ text, trusted: fc.boolean() }), { maxLength: 6 })
}

/** The special tokens that the parts should give, by looking at every place in turn. */
function expectedSpecials(parts: readonly PromptPart[], specials: readonly string[]): string[] {
  const text = parts.map((part) => part.text).join('')
  const trusted = parts.flatMap((part) => [...Array(part.text.length)].map(() => part.trusted))
  const found: string[] = []
  for (let at = 0; at < text.length; ) {
    const here = specials.filter((token) => text.startsWith(token, at))
    const whole = here.filter((token) => trusted.slice(at, at + token.length).every((flag) => flag))
    const [longest] = whole.sort((one, other) => other.length - one.length)
    if (longest !== undefined) found.push(longest)
    at += longest?.length ?? 1
  }
  return found
}

describe.each(cases)('special tokens with $name', ({ tokenizer, specials }) => {
  const idsOf = new Set(specials.map((token) => tokenizer.idOf(token)))
  // Bytes without a token of their own are written with byte tokens; <0x41> is one, and "A" has its own.
  const structural = (ids: readonly number[]) => ids.filter((id) => idsOf.has(id))

  test('come from trusted text alone, also across the boundaries of parts', () => {
    fc.assert(
      fc.property(partsOf(specials), (parts) => {
        const expected = expectedSpecials(parts, specials)
        expect(structural(tokenizer.encodeParts(parts))).toEqual(expected.map((token) => tokenizer.idOf(token)))
      }),
      { numRuns: 400 },
    )
  })

  test('inside a plain text are characters', () => {
    fc.assert(
      fc.property(partsOf(specials), (parts) => {
        expect(structural(tokenizer.encode(textOf(parts)))).toEqual([])
      }),
    )
  })

  test('leave the reading of a prompt unchanged where the untrusted text has none', () => {
    const clean = fc.array(fc.constantFrom(...ordinary), { maxLength: 5 }).map((all) => all.join(''))
    const trusted = fc.array(fc.constantFrom(...specials, ...ordinary), { maxLength: 5 }).map((all) => all.join(''))
    const part = fc.oneof(
      fc.record({ text: clean, trusted: fc.constant(false) }),
      fc.record({ text: trusted, trusted: fc.constant(true) }),
    )
    fc.assert(
      fc.property(fc.array(part, { maxLength: 6 }), (parts) => {
        expect(tokenizer.encodeParts(parts)).toEqual(tokenizer.encode(textOf(parts), { specials: 'parse' }))
      }),
    )
  })
})

test('a text with special tokens in it comes back as it was', () => {
  fc.assert(
    fc.property(partsOf([...added, '<|im_end|>']).map(textOf), (text) => {
      expect(smollm.decode(smollm.encode(text))).toBe(text)
      expect(smollm.decode(smollm.encode(text), { skipSpecials: true })).toBe(text)
    }),
  )
})

test('tokens merge across the boundary of two parts', () => {
  const parts = [
    { text: 'Ques', trusted: true },
    { text: 'tion', trusted: false },
  ]
  expect(smollm.encodeParts(parts)).toEqual(smollm.encode('Question'))
  expect(smollm.encode('Question')).toHaveLength(1)
})

test('added tokens get the ids after the vocabulary, in order, and known ones keep theirs', () => {
  expect(added.map((token) => smollm.idOf(token))).toEqual([49_152, 49_153, 49_154, 49_155, 49_156])
  expect(smollm.vocabularySize).toBe(49_157)
  expect(smollm.baseVocabularySize).toBe(49_152)
  const more = smollm.withAddedTokens(['<SEP>', '<|im_end|>', '<KBTC>'])
  expect(['<SEP>', '<|im_end|>', '<KBTC>'].map((token) => more.idOf(token))).toEqual([49_156, 2, 49_157])
  expect(more.baseVocabularySize).toBe(49_152)
  expect(more.isSpecial(49_157)).toBe(true)
  expect(smollm.idOf('<KBTC>')).toBeUndefined()
})

test('a word of the vocabulary that is declared special is no longer an outcome of merging', () => {
  const word = smollm.idOf('the')
  expect(smollm.encode('the')).toEqual([word])
  const declared = smollm.withAddedTokens(['the'])
  expect(declared.idOf('the')).toBe(word)
  expect(declared.encode('the', { specials: 'parse' })).toEqual([word])
  expect(declared.encode('the')).not.toContain(word)
  expect(declared.decode(declared.encode('the'))).toBe('the')
})

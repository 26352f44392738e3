import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { splitText } from '../../src/ingestion/split.ts'

/** Words and marks, and one for every eight letters of a word: grows with the text, as tokens do. */
const countTokens = (text: string) => (text.match(/[\p{L}\p{N}]{1,8}|[^\p{L}\p{N}\s]/gu) ?? []).length

const split = (text: string, maxTokens: number) => splitText(text, { maxTokens, count: countTokens })
const texts = (text: string, maxTokens: number) => split(text, maxTokens).map((chunk) => chunk.text)

describe('where a text is cut', () => {
  test('text that fits is one chunk, text of white space none', () => {
    expect(split('  One. Two.\n\nThree.\n', 20)).toEqual([{ text: 'One. Two.\n\nThree.', start: 2, end: 19 }])
    expect(split('', 5)).toEqual([])
    expect(split(' \n\t\u00a0 ', 5)).toEqual([])
  })

  test('between paragraphs first', () => {
    expect(texts('a b c. d e f.\n\ng h i. j k.\r\n\r\nl m n.', 9)).toEqual(['a b c. d e f.', 'g h i. j k.', 'l m n.'])
  })

  test('between sentences next, and never inside one that fits', () => {
    expect(texts('One two. Three four five six. Seven.', 6)).toEqual(['One two.', 'Three four five six.', 'Seven.'])
    expect(texts('我们去东京。他们留在家里。', 3)).toEqual(['我们去东京。', '他们留在家里。'])
  })

  test('a heading stays with what follows it', () => {
    expect(texts('Head\n\nOne two three. Four five six seven eight.', 6)[0]).toBe('Head\n\nOne two three.')
  })

  test('a line end inside a paragraph is no end of a sentence, but better than the middle of a line', () => {
    expect(texts('One two.\nThree four\nfive six.', 6)).toEqual(['One two.', 'Three four\nfive six.'])
    expect(texts('one two three\nfour five six\nseven', 4)).toEqual(['one two three', 'four five six\nseven'])
  })

  test('between words, and inside only one that is longer than a chunk', () => {
    expect(texts('one two three four five', 2)).toEqual(['one two', 'three four', 'five'])
    expect(texts(`go ${'x'.repeat(40)} on`, 2)).toEqual(['go', 'x'.repeat(16), 'x'.repeat(16), `${'x'.repeat(8)} on`])
  })

  test('marks stay with their words, and white space comes before any other boundary', () => {
    expect(texts('We drank black Tea.', 4)).toEqual(['We drank black', 'Tea.'])
    expect(texts('He said “no” (or “yes”) to him', 6)).toEqual(['He said “no”', '(or “yes”)', 'to him'])
    expect(texts('see a/b/c now', 4)).toEqual(['see a/', 'b/c now'])
    // a script without spaces is cut between words, never before a full stop
    const chinese = texts('他 昨天我们去了东京和京都还有大阪。', 4)
    expect(chinese.filter((chunk) => chunk.startsWith('。'))).toEqual([])
    expect(chinese.join('').replace(/\s/g, '')).toBe('他昨天我们去了东京和京都还有大阪。')
    // a word that fills a chunk alone is parted from its full stop, since nothing else is left
    expect(texts('Tea.', 1)).toEqual(['Tea', '.'])
  })

  test('a character that is too long for any chunk is an error', () => {
    expect(() => splitText('👍', { maxTokens: 1, count: (text) => 3 * text.length })).toThrow(
      /exceeds a chunk.*at most 1/,
    )
    expect(() => split('a', 0)).toThrow(/integer from 1.*Got 0/)
  })
})

const anyText = fc
  .array(
    fc.oneof(
      fc.string({ unit: 'binary', maxLength: 30 }),
      fc.string({ unit: 'grapheme', maxLength: 30 }),
      fc.constantFrom(
        'word ',
        'A sentence. ',
        '\n',
        '\r\n',
        '\n\n',
        '中文句子。',
        'ا',
        '👩‍👩‍👧',
        'e\u0301',
        '\ud800',
        'x'.repeat(100),
      ),
    ),
    { maxLength: 40 },
  )
  .map((parts) => parts.join(''))

test('chunks lie in order, leave out white space alone, fit, and cut no surrogate pair', () => {
  fc.assert(
    fc.property(anyText, fc.integer({ min: 1, max: 30 }), (text, maxTokens) => {
      let last = 0
      for (const chunk of split(text, maxTokens)) {
        expect(chunk.text).toBe(text.slice(chunk.start, chunk.end))
        expect(text.slice(last, chunk.start).trim()).toBe('')
        expect(chunk.text).toBe(chunk.text.trim())
        expect(chunk.text).not.toBe('')
        expect(countTokens(chunk.text)).toBeLessThanOrEqual(maxTokens)
        for (const edge of [chunk.start, chunk.end]) {
          expect(text.slice(Math.max(0, edge - 1), edge + 1)).not.toMatch(/^[\ud800-\udbff][\udc00-\udfff]$/)
        }
        last = chunk.end
      }
      expect(text.slice(last).trim()).toBe('')
    }),
    { numRuns: 200 },
  )
})

test('a sentence that fits is in one chunk, whatever stands around it', () => {
  const sentence = fc.integer({ min: 2, max: 12 }).map((words) => `${'Word '.repeat(words).trim()}.`)
  const gap = fc.constantFrom(' ', '\n', '\n\n', '  ')
  fc.assert(
    fc.property(fc.array(fc.tuple(sentence, gap), { minLength: 1, maxLength: 20 }), (pairs) => {
      // the longest counts 13
      for (const chunk of split(pairs.flat().join(''), 13)) expect(chunk.text).toMatch(/\.$/)
    }),
  )
})

test('long text without a space is cut without being read again and again', () => {
  let read = 0
  const count = (text: string) => {
    read += text.length
    return Math.ceil(text.length / 4)
  }
  const text = 'ab'.repeat(100_000)
  const chunks = splitText(text, { maxTokens: 128, count })
  expect(chunks.map((chunk) => chunk.text).join('')).toBe(text)
  expect(chunks.length).toBeLessThan(450)
  expect(read).toBeLessThan(20 * text.length)
})

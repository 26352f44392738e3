import { expect, test } from 'vitest'
import { bm25Words, indexBm25 } from '../../src/evaluation/bm25.ts'

test('words are lower-cased runs of letters, marks and digits, unstemmed', () => {
  expect(bm25Words("Opera-House's 2nd Ångström, running RUNS!")).toEqual([
    'opera',
    'house',
    's',
    '2nd',
    'ångström',
    'running',
    'runs',
  ])
  expect(bm25Words('…')).toEqual([])
})

// Lengths 3, 2, 4; mean 3. "cat" is in documents 0 (once) and 2 (twice); "dog" in document 1.
const documents = ['the cat sat', 'dog barked', 'cat and cat again']

test('scores are those computed by hand', () => {
  const index = indexBm25(documents)
  const idfCat = Math.log(1.6) // ln(1 + (3 - 2 + .5) / (2 + .5))
  const idfDog = Math.log(8 / 3) // ln(1 + (3 - 1 + .5) / (1 + .5))
  const scores = index.scores('Cat dog!')
  expect(scores).toHaveLength(3)
  expect(scores[0]).toBeCloseTo(idfCat, 12) // 1 · 2.2 / (1 + 1.2 · 1)
  expect(scores[1]).toBeCloseTo((idfDog * 2.2) / (1 + 1.2 * 0.75), 12) // 1 - .75 + .75 · 2/3 = .75
  expect(scores[2]).toBeCloseTo((idfCat * 2 * 2.2) / (2 + 1.2 * 1.25), 12) // 1 - .75 + .75 · 4/3 = 1.25
  // 0.4700, 1.1357 and 0.5909: written out, so that a slip in both formulas shows
  expect([...scores].map((score) => Number(score.toFixed(4)))).toEqual([0.47, 1.1357, 0.5909])
})

test('a word that stands twice in the query counts twice', () => {
  const index = indexBm25(documents)
  expect(index.scores('dog dog')[1]).toBeCloseTo(2 * (index.scores('dog')[1] ?? Number.NaN), 12)
})

test('search ranks the documents that share a word, equal ones in the given order', () => {
  const index = indexBm25([...documents, 'dog barked'])
  expect(index.search('dog cat', 10).map((hit) => hit.index)).toEqual([2, 1, 3, 0])
  expect(index.search('dog cat', 2).map((hit) => hit.index)).toEqual([2, 1])
  expect(index.search('unicorn', 5)).toEqual([])
  expect(index.search('', 5)).toEqual([])
  expect(indexBm25([]).search('dog', 5)).toEqual([])
  expect(indexBm25(['', '…']).search('dog', 5)).toEqual([])
})

test('names that every object has are ordinary words', () => {
  expect(
    indexBm25(['constructor toString', 'other'])
      .search('constructor', 5)
      .map((hit) => hit.index),
  ).toEqual([0])
})

test('b = 0 ignores length, k1 = 0 ignores repetition', () => {
  const [one, , two] = indexBm25(documents, { b: 0, k1: 1 }).scores('cat')
  expect(one).toBeCloseTo(Math.log(1.6), 12)
  expect(two).toBeCloseTo((Math.log(1.6) * 4) / 3, 12)
  const flat = indexBm25(documents, { k1: 0 }).scores('cat')
  expect(flat[0]).toBe(flat[2])
})

test.each([{ k1: -1 }, { b: 1.5 }, { k1: Number.NaN }])('refuses the settings %o', (options) => {
  expect(() => indexBm25(documents, options)).toThrow(/BM25 settings/)
})

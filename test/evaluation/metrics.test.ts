import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  bestOver,
  coverExactMatch,
  exactMatch,
  meanReciprocalRank,
  normaliseAnswer,
  recallAt,
  reciprocalRank,
  scoreAnswer,
  tokenF1,
} from '../../src/evaluation/metrics.ts'

describe('normalisation of answers', () => {
  // Expected values from SQuAD's rules: lower case, string.punctuation deleted, the words a, an, the dropped, spaces joined.
  test.each([
    ['The Eiffel Tower!', 'eiffel tower'],
    ['  An  apple,\ta\nday ', 'apple day'],
    ['U.S.A.', 'usa'],
    ["the king's hand-book", 'kings handbook'],
    ['a-the', 'athe'],
    ['theatre of another banana', 'theatre of another banana'],
    ['!"#$%&\'()*+,-./:;<=>?@[\\]^_`{|}~', ''],
    ['naïve à la carte éa', 'naïve à la carte éa'],
    ['“the” 1,000 €', '“ ” 1000 €'],
    ['ÅNGSTRÖM', 'ångström'],
    ['a an the', ''],
  ])('%j becomes %j', (text, expected) => {
    expect(normaliseAnswer(text)).toBe(expected)
  })
})

describe('answer metrics', () => {
  test('exact match compares normalised answers', () => {
    expect(exactMatch('The Oslo Opera House.', 'oslo opera house')).toBe(1)
    expect(exactMatch('Oslo', 'oslo opera house')).toBe(0)
    expect(exactMatch('', 'the')).toBe(1)
  })

  test.each([
    // precision 2/3, recall 2/2
    ['in Oslo Norway', 'Oslo, Norway', 0.8],
    // one of the two "new" is matched: precision 1/2, recall 1/3
    ['new new', 'new york city', 0.4],
    // repeated words count as often as both have them: precision 2/2, recall 2/3
    ['new new', 'new new york', 0.8],
    ['york new', 'new york', 1],
    ['Paris', 'London', 0],
    ['', 'London', 0],
    ['the', 'London', 0],
    ['the', 'a', 1],
  ])('token F1 of %j against %j is %d', (prediction, gold, expected) => {
    expect(tokenF1(prediction, gold)).toBeCloseTo(expected, 12)
  })

  test.each([
    ['It was built by the Snøhetta, in 2008.', 'Snøhetta', 1],
    ['the year of 2008', '2008', 1],
    ['a big party', 'art', 0],
    ['york, new', 'new york', 0],
    ['new york', 'the New York', 1],
    ['anything', 'the', 0],
    ['', 'the', 1],
  ])('cover exact match of %j over %j is %d', (prediction, gold, expected) => {
    expect(coverExactMatch(prediction, gold)).toBe(expected)
  })

  test('the best gold answer counts, for each metric on its own', () => {
    expect(bestOver(tokenF1, 'Oslo Norway', ['Bergen', 'Oslo', 'Oslo in Norway'])).toBeCloseTo(0.8, 12)
    // F1 is best on the second gold (4/5), cover on the first.
    expect(scoreAnswer('in Oslo Norway', ['Oslo', 'Norway Oslo'])).toEqual({
      exactMatch: 0,
      f1: 0.8,
      coverExactMatch: 1,
    })
    expect(() => bestOver(exactMatch, 'x', [])).toThrow(/no gold answer/)
  })

  test('the scores lie in [0, 1] and exact match implies the others', () => {
    const text = fc.array(fc.constantFrom('a', 'the', 'oslo', 'new', 'york', ',', 'é')).map((words) => words.join(' '))
    fc.assert(
      fc.property(text, text, (prediction, gold) => {
        const scores = scoreAnswer(prediction, [gold])
        for (const score of Object.values(scores)) expect(score >= 0 && score <= 1).toBe(true)
        if (scores.exactMatch === 1) expect(scores).toEqual({ exactMatch: 1, f1: 1, coverExactMatch: 1 })
        expect(tokenF1(gold, prediction)).toBe(scores.f1)
      }),
    )
  })
})

describe('ranking metrics', () => {
  const ranking = ['d', 'a', 'c', 'b']

  test('recall@k is the share of relevant documents among the first k', () => {
    expect(recallAt(1, ranking, ['a', 'b'])).toBe(0)
    expect(recallAt(2, ranking, ['a', 'b'])).toBe(0.5)
    expect(recallAt(9, ranking, ['a', 'b', 'z', 'z'])).toBeCloseTo(2 / 3, 12)
    expect(() => recallAt(0, ranking, ['a'])).toThrow(/k of recall@k.*0/)
    expect(() => recallAt(1, ranking, [])).toThrow(/no relevant document/)
  })

  test('reciprocal rank looks at the first relevant document', () => {
    expect(reciprocalRank(ranking, ['b', 'c'])).toBeCloseTo(1 / 3, 12)
    expect(reciprocalRank(ranking, ['z'])).toBe(0)
    expect(
      meanReciprocalRank([
        { ranking, relevant: ['d'] },
        { ranking, relevant: ['a'] },
        { ranking, relevant: ['z'] },
      ]),
    ).toBe(0.5)
    expect(meanReciprocalRank([])).toBeNaN()
  })
})

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { z } from 'zod'
import { parseArguments, UsageError } from '../../src/cli/arguments.ts'
import { flagsOf } from '../../src/cli/flags.ts'
import { nearest } from '../../src/cli/nearest.ts'
import type { Verb } from '../../src/cli/verb.ts'
import { defaults, fakeVerb } from './fakes.ts'

const parse = (...words: string[]) => parseArguments('find', fakeVerb(), words)

describe('the arguments of a verb', () => {
  test('take their defaults from the schema', () => {
    expect(parse('--question', 'why?')).toEqual({ help: false, json: false, values: { ...defaults, question: 'why?' } })
  })

  test('are flags in kebab case with values of the schema’s types, transformed by it', () => {
    const words = [
      '--question=a=b',
      '--top-k',
      '3',
      '--similarity',
      'flat',
      '--no-stream',
      '--verbose',
      '--seed=-1.5e3',
    ]
    expect(parse(...words, '--stop-word', 'end', '--json')).toEqual({
      help: false,
      json: true,
      values: {
        question: 'a=b',
        documents: [],
        topK: 3,
        similarity: 'flat',
        stream: false,
        verbose: true,
        seed: -1500,
        stopWord: 'END',
      },
    })
  })

  test('may be given by place, a list taking the rest, with flags between', () => {
    expect(parse('why?', 'a.txt', '--seed', '-1', 'b.txt', '--documents', 'c.txt').values).toEqual({
      ...defaults,
      question: 'why?',
      seed: -1,
      documents: ['c.txt', 'a.txt', 'b.txt'],
    })
  })

  test('are text after --, whatever they look like', () => {
    expect(parse('--', '--help', '-x').values).toEqual({ ...defaults, question: '--help', documents: ['-x'] })
  })

  test('lists are given by repetition', () => {
    expect(parse('q', '--documents', 'a', '--documents=b').values.documents).toEqual(['a', 'b'])
  })

  test('any text arrives unchanged, after = or by place', () => {
    fc.assert(
      fc.property(fc.string(), fc.string({ unit: 'grapheme' }), (question, document) => {
        const expected = { ...defaults, question, documents: [document] }
        expect(parse(`--question=${question}`, `--documents=${document}`).values).toEqual(expected)
        expect(parse('--', question, document).values).toEqual(expected)
      }),
    )
  })

  test('--help stops the checking', () => {
    expect(parse('--top-k', 'x', '--help')).toMatchObject({ help: true })
    expect(parse('-h')).toMatchObject({ help: true })
  })

  test.each([
    ['a missing required flag', [], /clara find needs --question/],
    ['an unknown flag near a known one', ['q', '--topk', '3'], /clara find has no flag --topk.*Did you mean --top-k\?/],
    ['an unknown flag with swapped letters', ['q', '--sede=3'], /no flag --sede\..*--seed\?/],
    ['an unknown flag near --json', ['q', '--jsno'], /--json\?/],
    ['an unknown flag near nothing', ['q', '--zzzzzzzz'], /no flag --zzzzzzzz\. See clara find --help/],
    ['an unknown short flag', ['q', '-q'], /no flag -q/],
    ['an object’s own names', ['q', '--constructor=1'], /no flag --constructor/],
    ['__proto__', ['q', '--__proto__=1'], /no flag --__proto__/],
    ['a number that is none', ['q', '--top-k', 'many'], /--top-k is not a number.*"many"/],
    ['an empty number', ['q', '--top-k='], /--top-k is not a number.*""/],
    ['an infinite number', ['q', '--seed=Infinity'], /--seed is not a number/],
    ['a number out of range', ['q', '--top-k=0'], /--top-k: .*>=1/],
    ['a fraction for an integer', ['q', '--top-k=1.5'], /--top-k: .*int/],
    ['an unknown choice', ['q', '--similarity=maxsin'], /--similarity.*"maxsin".*flat, maxsim.*Did you mean maxsim\?/],
    ['a flag without its value', ['q', '--seed'], /--seed needs a value.*a number/],
    [
      'a flag where a value belongs',
      ['--question', '--json'],
      /--question needs a value, but --json.*--question=--json/,
    ],
    ['a value for a boolean', ['q', '--verbose=yes'], /--verbose takes no value/],
    ['a value for a negated boolean', ['q', '--no-stream=yes'], /--no-stream takes no value/],
    ['a value for --json', ['q', '--json=1'], /--json takes no value/],
    ['the opposite of a number', ['q', '--no-seed'], /no flag --no-seed/],
    ['a flag given twice', ['q', '--seed=1', '--seed=2'], /--seed is given twice/],
    ['a boolean and its opposite', ['q', '--stream', '--no-stream'], /--stream is given twice/],
    ['the same by place and by flag', ['q', '--question=r'], /--question is given twice/],
  ] as const)('%s is a usage error', (_, words, message) => {
    expect(() => parse(...words)).toThrow(UsageError)
    expect(() => parse(...words)).toThrow(message)
  })

  test('a word too many is a usage error', () => {
    const verb: Verb = { ...fakeVerb(), positionals: ['question'] }
    expect(() => parseArguments('find', verb, ['what', 'is'])).toThrow(/does not know what to do with "is".*quotes/)
  })
})

describe('a schema as flags', () => {
  const withOptions = (options: z.ZodObject): Verb => ({ ...fakeVerb(), options, positionals: [] })

  test('keeps the order, names, kinds, defaults and descriptions of the fields', () => {
    expect(flagsOf(fakeVerb()).map((flag) => [flag.name, flag.kind, flag.required, flag.repeated])).toEqual([
      ['question', 'string', true, false],
      ['documents', 'string', false, true],
      ['top-k', 'number', false, false],
      ['similarity', 'string', false, false],
      ['stream', 'boolean', false, false],
      ['verbose', 'boolean', false, false],
      ['seed', 'number', false, false],
      ['stop-word', 'string', false, false],
    ])
    expect(flagsOf(fakeVerb())[2]).toMatchObject({
      key: 'topK',
      defaultValue: 5,
      description: 'How many passages to read',
    })
  })

  test('sees a description inside or outside of the wrappers', () => {
    const options = z.strictObject({
      a: z.string().describe('inside').optional(),
      b: z.string().default('x').readonly().describe('outside'),
    })
    expect(flagsOf(withOptions(options)).map((flag) => flag.description)).toEqual(['inside', 'outside'])
  })

  test.each([
    ['no description', z.strictObject({ a: z.string() }), /option a has no \.describe/],
    ['the name json', z.strictObject({ json: z.string().describe('x') }), /--json is on every verb/],
    ['an object', z.strictObject({ a: z.strictObject({}).describe('x') }), /option a: a object cannot be a flag/],
    ['a boolean without default', z.strictObject({ a: z.boolean().describe('x') }), /needs \.default/],
    ['a list of booleans', z.strictObject({ a: z.array(z.boolean()).describe('x') }), /list of booleans/],
  ])('with %s is refused, as a fault of its author', (_, options, message) => {
    expect(() => flagsOf(withOptions(options))).toThrow(message)
    expect(() => flagsOf(withOptions(options))).not.toThrow(UsageError)
  })
})

test.each([
  ['trian', 'train'],
  ['evalaute', 'evaluate'],
  ['ASK', 'ask'],
  ['tra', undefined],
  ['as', 'ask'],
  ['xyz', undefined],
])('the name nearest to %s is %s', (word, expected) => {
  expect(nearest(word, ['train', 'compress', 'ask', 'evaluate'])).toBe(expected)
})

import { parseArgs } from 'node:util'
import type { z } from 'zod'
import { ClaraError } from '../errors.ts'
import { type Flag, flagsOf } from './flags.ts'
import { nearest } from './nearest.ts'
import type { Verb } from './verb.ts'

/** The command line itself is wrong: exit status 2. */
export class UsageError extends ClaraError {}

/** What the words after a verb mean. */
export interface ParsedArguments {
  /** `--help` or `-h` was among them; then nothing else was checked. */
  readonly help: boolean
  /** `--json` was among them. */
  readonly json: boolean
  /** The verb's options, as its schema returns them. */
  readonly values: Record<string, unknown>
}

/** A value as it came, before the schema has seen it. */
export type Given = string | number | boolean | (string | number)[]

/**
 * Reads a verb's arguments by its schema.
 *
 * @param name The verb's name, for messages.
 * @param words The words after the verb.
 * @param settings Values for options that the words do not give.
 * @throws UsageError that names the flag and what is wrong with it.
 */
export function parseArguments(
  name: string,
  verb: Verb,
  words: readonly string[],
  settings: ReadonlyMap<string, Given> = new Map(),
): ParsedArguments {
  const flags = flagsOf(verb)
  const { tokens } = parseArgs({
    args: [...words],
    strict: false,
    tokens: true,
    allowPositionals: true,
    options: {
      help: { type: 'boolean', short: 'h' },
      json: { type: 'boolean' },
      ...Object.fromEntries(flags.map((flag) => [flag.name, { type: flag.kind === 'boolean' ? 'boolean' : 'string' }])),
    },
  })
  if (tokens.some((token) => token.kind === 'option' && token.name === 'help')) {
    return { help: true, json: false, values: {} }
  }

  const given = new Map<string, Given>()
  const places: string[] = []
  let json = false
  for (const token of tokens) {
    if (token.kind === 'positional') places.push(token.value)
    if (token.kind !== 'option') continue
    if (token.name === 'json') {
      if (token.value !== undefined) throw new UsageError('--json takes no value.')
      json = true
      continue
    }
    const flag = flags.find((candidate) => candidate.name === token.name)
    const negated = flags.find((candidate) => candidate.kind === 'boolean' && `no-${candidate.name}` === token.name)
    const target = flag ?? negated
    if (target === undefined) throw unknownFlag(name, token.rawName, flags)
    if (target.kind === 'boolean') {
      if (token.value !== undefined) throw new UsageError(`${token.rawName} takes no value.`)
      put(given, target, target === flag)
    } else {
      put(given, target, readValue(target, textOf(token, target)))
    }
  }
  placePositionals(name, verb, flags, places, given)
  for (const [key, value] of settings) if (!given.has(key)) given.set(key, value)
  return { help: false, json, values: validate(name, verb, flags, given) }
}

function textOf(
  token: { readonly value?: string | undefined; readonly inlineValue?: boolean | undefined },
  flag: Flag,
) {
  if (token.value === undefined) {
    throw new UsageError(`--${flag.name} needs a value.`, { expected: expectation(flag) })
  }
  if (token.inlineValue !== true && token.value.startsWith('--')) {
    throw new UsageError(`--${flag.name} needs a value, but ${token.value} follows.`, {
      expected: expectation(flag),
      hint: `If that is the value, write --${flag.name}=${token.value}`,
    })
  }
  return token.value
}

function readValue(flag: Flag, text: string): string | number {
  if (flag.kind === 'number') {
    const number = text.trim() === '' ? Number.NaN : Number(text)
    if (Number.isFinite(number)) return number
    throw new UsageError(`The value of --${flag.name} is not a number.`, {
      expected: expectation(flag),
      received: JSON.stringify(text),
    })
  }
  if (flag.choices !== undefined && !flag.choices.includes(text)) {
    const guess = nearest(text, flag.choices)
    throw new UsageError(`--${flag.name} does not know ${JSON.stringify(text)}.`, {
      expected: expectation(flag),
      ...(guess === undefined ? {} : { hint: `Did you mean ${guess}?` }),
    })
  }
  return text
}

function expectation(flag: Flag): string {
  if (flag.choices !== undefined) return `one of ${flag.choices.join(', ')}`
  return flag.kind === 'number' ? 'a number' : 'text'
}

function put(given: Map<string, Given>, flag: Flag, value: string | number | boolean): void {
  const earlier = given.get(flag.key)
  if (flag.repeated && typeof value !== 'boolean') {
    given.set(flag.key, [...(Array.isArray(earlier) ? earlier : []), value])
    return
  }
  if (earlier !== undefined) {
    throw new UsageError(`--${flag.name} is given twice.`, { expected: 'it once' })
  }
  given.set(flag.key, value)
}

function placePositionals(
  name: string,
  verb: Verb,
  flags: readonly Flag[],
  places: readonly string[],
  given: Map<string, Given>,
): void {
  const rest = [...places]
  for (const key of verb.positionals) {
    const flag = flags.find((candidate) => candidate.key === key)
    if (flag === undefined) throw new Error(`clara ${name}: positional ${key} is not among the options`)
    const taken = flag.repeated ? rest.splice(0) : rest.splice(0, 1)
    for (const text of taken) put(given, flag, readValue(flag, text))
  }
  if (rest.length > 0) {
    throw new UsageError(`clara ${name} does not know what to do with ${JSON.stringify(rest[0])}.`, {
      hint: `See clara ${name} --help. Text of several words needs quotes.`,
    })
  }
}

function unknownFlag(name: string, rawName: string, flags: readonly Flag[]): UsageError {
  const known = [...flags.map((flag) => `--${flag.name}`), '--json', '--help']
  const guess = nearest(rawName, known)
  return new UsageError(`clara ${name} has no flag ${rawName}.`, {
    hint: guess === undefined ? `See clara ${name} --help.` : `Did you mean ${guess}?`,
  })
}

function validate(
  name: string,
  verb: Verb,
  flags: readonly Flag[],
  given: ReadonlyMap<string, Given>,
): Record<string, unknown> {
  const missing = flags.filter((flag) => flag.required && !given.has(flag.key)).map((flag) => `--${flag.name}`)
  if (missing.length > 0) {
    throw new UsageError(`clara ${name} needs ${missing.join(' and ')}.`, { hint: `See clara ${name} --help.` })
  }
  const result = verb.options.safeParse(Object.fromEntries(given))
  if (result.success) return result.data
  throw new UsageError(result.error.issues.map((issue) => describeIssue(issue, flags)).join('\n'))
}

function describeIssue(issue: z.core.$ZodIssue, flags: readonly Flag[]): string {
  const flag = flags.find((candidate) => candidate.key === issue.path[0])
  return flag === undefined ? `${issue.message}.` : `--${flag.name}: ${issue.message}.`
}

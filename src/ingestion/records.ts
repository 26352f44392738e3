/** From the records of a table to documents: which field is the text, which the title, what goes along as metadata. */
import { ClaraError } from '../errors.ts'
import type { BadRecord, JsonValue, ReadDocument } from './document.ts'
import type { Fields } from './options.ts'

type RecordValues = Readonly<Record<string, JsonValue>>

const usual = {
  id: ['id', '_id'],
  text: ['text', 'content', 'contents', 'body', 'passage', 'abstract', 'page_content'],
  title: ['title', 'name', 'headline', 'subject'],
} as const

/** Which field is what, once the names are known. */
export interface Mapping {
  readonly id: string | undefined
  readonly text: readonly string[]
  readonly title: string | undefined
  /** Undefined: all others. */
  readonly metadata: readonly string[] | undefined
}

/**
 * Finds the fields among the names of a record; undefined when none is known to hold the text. Fields that were named are taken as they are.
 */
export function findFields(fields: Fields, names: readonly string[]): Mapping | undefined {
  const text = fields.text ?? find(usual.text, names)
  if (text === undefined) return undefined
  return {
    text: [text].flat(),
    id: fields.id ?? find(usual.id, names),
    title: fields.title ?? find(usual.title, names),
    metadata: fields.metadata,
  }
}

/**
 * Checks that the fields are there, at the first record of a file.
 * @param wanted Those that must be.
 * @param subject The file, for messages.
 * @throws ClaraError when one is not there, or no text is found.
 */
export function requireFields(
  mapping: Mapping | undefined,
  wanted: readonly (string | undefined)[],
  names: readonly string[],
  subject: string,
): asserts mapping {
  const missing = wanted.find((name) => name !== undefined && !names.includes(name))
  if (mapping !== undefined && missing === undefined) return
  const received = names.slice(0, 20).map((name) => JSON.stringify(name.slice(0, 60)))
  throw new ClaraError(
    missing === undefined
      ? `${subject} has no field that is known to hold the text.`
      : `${subject} has no field ${JSON.stringify(missing)}.`,
    {
      ...(missing === undefined ? { expected: `one of ${usual.text.join(', ')}` } : {}),
      received: received.length === 0 ? 'no fields' : received.join(', '),
      hint: 'Say which fields are id, text, title and metadata.',
    },
  )
}

function find(candidates: readonly string[], names: readonly string[]): string | undefined {
  const folded = names.map((name) => name.trim().toLowerCase())
  const at = candidates.map((candidate) => folded.indexOf(candidate)).find((index) => index >= 0)
  return at === undefined ? undefined : names[at]
}

/**
 * The document of a record, or what is wrong with it.
 * @param place Where it stands, for messages.
 * @param number Of the record, from 1.
 */
export function documentOf(
  record: RecordValues,
  mapping: Mapping,
  place: string,
  number: number,
): ReadDocument | BadRecord {
  const value = (name: string | undefined) => (name !== undefined && Object.hasOwn(record, name) ? record[name] : null)
  const parts = mapping.text.map(value).filter((part) => part !== null && part !== '')
  const wrong = parts.find((part) => typeof part !== 'string')
  if (wrong !== undefined) {
    return { problem: `${place}: the text is not a string but ${Array.isArray(wrong) ? 'a list' : typeof wrong}.` }
  }
  const text = parts.join('\n\n')
  if (text.trim() === '') return { problem: `${place}: it has no text.` }
  const id = value(mapping.id)
  const title = value(mapping.title)
  if (id !== null && typeof id !== 'string' && typeof id !== 'number') {
    return { problem: `${place}: the id is neither a string nor a number.` }
  }
  const used = new Set([...mapping.text, mapping.id, mapping.title])
  const names = mapping.metadata ?? Object.keys(record).filter((name) => !used.has(name))
  return {
    text,
    record: number,
    ...(id === null || id === '' ? {} : { id: String(id) }),
    ...(typeof title === 'string' && title.trim() !== '' ? { title: title.trim() } : {}),
    metadata: Object.fromEntries(
      names.flatMap((name) => (Object.hasOwn(record, name) ? [[name, record[name] ?? null]] : [])),
    ),
  }
}

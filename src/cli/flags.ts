import type { z } from 'zod'
import type { Verb } from './verb.ts'

/** A flag, as a field of a verb's schema describes it. */
export interface Flag {
  /** The field's key, such as `topK`. */
  readonly key: string
  /** The flag without its dashes, such as `top-k`. */
  readonly name: string
  readonly kind: 'boolean' | 'number' | 'string'
  /** For an enum: what may be given. */
  readonly choices?: readonly string[]
  /** A list: the flag may be given several times. */
  readonly repeated: boolean
  readonly required: boolean
  /** The schema's default, where it has one. */
  readonly defaultValue?: unknown
  readonly description: string
}

const reserved = new Set(['help', 'json'])

/**
 * The flags of a verb, in the order of its schema.
 *
 * @throws Error, meant for the verb's author, for a field that cannot be a flag: of another type, undescribed, or named
 * `help` or `json`.
 */
export function flagsOf(verb: Pick<Verb, 'options'>): Flag[] {
  return Object.entries(verb.options.shape).map(([key, field]) => {
    const name = key.replace(/[A-Z]+/g, (capitals) => `-${capitals.toLowerCase()}`)
    if (reserved.has(name)) throw new Error(`--${name} is on every verb; an option cannot have this name`)
    const flag: Flag = { key, name, ...describeField(key, field as z.core.$ZodTypes) }
    if (flag.kind === 'boolean' && flag.repeated) throw new Error(`option ${key}: a list of booleans cannot be a flag`)
    if (flag.kind === 'boolean' && flag.required)
      throw new Error(`option ${key}: a boolean flag needs .default(…) or .optional()`)
    if (flag.description === '') throw new Error(`option ${key} has no .describe()`)
    return flag
  })
}

type Field = Omit<Flag, 'key' | 'name'>

/** Walks from the outside in: a wrapper says what is optional or described, the innermost type what kind of value it is. */
function describeField(key: string, field: z.core.$ZodTypes): Field {
  const description = (field as unknown as z.ZodType).description ?? ''
  const inside = (inner: z.core.$ZodType): Field => {
    const found = describeField(key, inner as z.core.$ZodTypes)
    return description === '' ? found : { ...found, description }
  }
  const simple = { repeated: false, required: true, description }
  const definition = field._zod.def
  switch (definition.type) {
    case 'optional':
      return { ...inside(definition.innerType), required: false }
    case 'default':
    case 'prefault':
      return { ...inside(definition.innerType), required: false, defaultValue: definition.defaultValue }
    case 'nullable':
    case 'readonly':
    case 'nonoptional':
      return inside(definition.innerType)
    case 'pipe':
      // `.transform()` is a pipe from the type that is given; `z.preprocess()` one into it.
      return inside((definition.in as z.core.$ZodTypes)._zod.def.type === 'transform' ? definition.out : definition.in)
    case 'array':
      return { ...inside(definition.element), repeated: true }
    case 'boolean':
    case 'number':
    case 'string':
      return { ...simple, kind: definition.type }
    case 'enum':
      return { ...simple, kind: 'string', choices: Object.values(definition.entries).map(String) }
    default:
      throw new Error(`option ${key}: a ${definition.type} cannot be a flag`)
  }
}

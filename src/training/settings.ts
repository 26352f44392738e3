import type { z } from 'zod'
import { ClaraError } from '../errors.ts'

/** Settings as they stand in a file, before a schema has seen them. */
export type Settings = Readonly<Record<string, unknown>>

/** Lays settings over others: objects are joined key by key, everything else (lists too) is replaced whole. */
export function overlay(below: Settings, above: Settings): Settings {
  const joined: Record<string, unknown> = { ...below }
  for (const [key, value] of Object.entries(above)) {
    const under = Object.hasOwn(below, key) ? below[key] : undefined
    define(joined, key, isSettings(under) && isSettings(value) ? overlay(under, value) : value)
  }
  return joined
}

/** A property of its own, whatever its name: a file may call a key `__proto__`. */
function define(target: Record<string, unknown>, key: string, value: unknown): void {
  Object.defineProperty(target, key, { value, enumerable: true, writable: true, configurable: true })
}

export function isSettings(value: unknown): value is Settings {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/**
 * Settings given on the command line, each `path=value`: `learningRate=1e-4`, `evaluation.every=50`, `data.0.weight=2`. The
 * schema says how the value is read: text stands as it is, numbers and booleans as in JSON, lists and objects in JSON; an
 * empty value for an optional setting leaves it out.
 * @throws ClaraError that names a setting that does not exist, or a value of the wrong type.
 */
export function assign(settings: Settings, assignments: readonly string[], schema: z.ZodType): Settings {
  return assignments.reduce((current, assignment) => {
    const at = assignment.indexOf('=')
    if (at < 1) {
      throw new ClaraError(`The setting ${JSON.stringify(assignment)} is not understood.`, {
        expected: 'PATH=VALUE, such as learningRate=1e-4',
      })
    }
    const path = assignment.slice(0, at)
    const { keys, leaf } = resolve(schema, path)
    return put(current, keys, readValue(leaf, assignment.slice(at + 1), path), path) as Settings
  }, settings)
}

type Types = z.core.$ZodTypes

/** The type inside optional, default and the like: what a value is written as. */
function bare(type: Types): Types {
  const definition = type._zod.def
  switch (definition.type) {
    case 'optional':
    case 'default':
    case 'prefault':
    case 'nullable':
    case 'readonly':
    case 'nonoptional':
      return bare(definition.innerType as Types)
    case 'pipe':
      return bare(definition.in as Types)
    default:
      return type
  }
}

/** The keys of a dotted path, and the type that the schema gives its end. */
function resolve(schema: z.ZodType, path: string): { keys: string[]; leaf: Types } {
  const keys: string[] = []
  let type = bare(schema as unknown as Types)
  let rest = path.split('.')
  while (rest.length > 0) {
    const [key = '', ...after] = rest
    const definition = type._zod.def
    const field = definition.type === 'object' ? ownField(definition.shape, key) : undefined
    if (field) {
      type = bare(field)
      rest = after
      keys.push(key)
    } else if (definition.type === 'array' && /^\d+$/.test(key)) {
      type = bare(definition.element as Types)
      rest = after
      keys.push(key)
    } else if (definition.type === 'record') {
      // names in a record may hold dots themselves
      type = bare(definition.valueType as Types)
      keys.push(rest.join('.'))
      rest = []
    } else {
      const place = keys.length === 0 ? '' : ` in ${keys.join('.')}`
      throw new ClaraError(`There is no setting '${path}'.`, {
        expected:
          definition.type === 'object'
            ? `one of ${Object.keys(definition.shape).join(', ')}${place}`
            : 'its name alone',
      })
    }
  }
  return { keys, leaf: type }
}

const ownField = (shape: Readonly<Record<string, unknown>>, key: string): Types | undefined =>
  Object.hasOwn(shape, key) ? (shape[key] as Types) : undefined

function readValue(leaf: Types, text: string, path: string): unknown {
  const { type } = leaf._zod.def
  if (text === '') return undefined
  if (type === 'string' || type === 'enum') return text
  try {
    const value: unknown = JSON.parse(text)
    if ((type !== 'number' && type !== 'boolean') || typeof value === type) return value
  } catch {
    // told below
  }
  throw new ClaraError(`The value of the setting '${path}' is not understood.`, {
    expected: type === 'number' || type === 'boolean' ? `a ${type}` : 'JSON',
    received: JSON.stringify(text),
  })
}

/** A copy with one value changed; undefined takes the setting away. */
function put(value: unknown, keys: readonly string[], leaf: unknown, path: string): unknown {
  const [key, ...rest] = keys
  if (key === undefined) return leaf
  if (Array.isArray(value)) {
    const index = Number(key)
    if (index > value.length) {
      throw new ClaraError(`The setting '${path}' passes the end of its list.`, {
        expected: `a place from 0 to ${value.length}`,
      })
    }
    return Object.assign([...value], { [index]: put(value[index], rest, leaf, path) })
  }
  const copy: Record<string, unknown> = isSettings(value) ? { ...value } : {}
  const inner = put(Object.hasOwn(copy, key) ? copy[key] : undefined, rest, leaf, path)
  if (inner === undefined) delete copy[key]
  else define(copy, key, inner)
  return copy
}

import { z } from 'zod'
import { ClaraError } from '../errors.ts'
import { openLanceStore } from '../store/lancedb/driver.ts'
import { openInMemoryStore } from '../store/memory.ts'
import { openPostgresStore } from '../store/postgres/driver.ts'
import type { Store, StoreDescription } from '../store/store.ts'
import { areWhole, vectorSettingsSchema } from './vectors.ts'

/** How memory is kept: `int8` with a scale per token, `float16`, or as it is. */
export const memoryKinds = ['int8', 'float16', 'float32'] as const
export type MemoryKind = (typeof memoryKinds)[number]

/** What a knowledge base keeps with its store: fixed when the store is made. */
export const storeSettingsSchema = z.strictObject({
  format: z.literal('clara-ts knowledge base'),
  version: z.literal(1),
  memory: z.enum(memoryKinds),
  vectors: vectorSettingsSchema,
})
export type StoreSettings = z.output<typeof storeSettingsSchema>

/**
 * Where a knowledge base is kept: a folder, the address of a PostgreSQL database, or undefined for this process's memory. In an address,
 * `?schema=NAME` chooses the database's schema (default `clara`), and `connections=N` how many are opened at most (default 4).
 */
export type Place = string | undefined

/** A place as errors and reports name it: without the password of an address. */
export function placeName(place: Place): string {
  if (place === undefined) return 'in memory'
  if (!isDatabase(place)) return place
  const url = URL.canParse(place) ? new URL(place) : undefined
  if (url === undefined) return 'a PostgreSQL database'
  url.password = ''
  return url.href
}

export const isDatabase = (place: string): boolean => /^postgres(ql)?:\/\//i.test(place)

/**
 * Opens the store at a place, and makes it when there is none yet and a description is given.
 * @returns undefined when there is none and no description.
 * @throws ClaraError when the store is another model's, of a newer schema, damaged, or cannot be reached.
 */
export async function openStore(place: Place, description?: StoreDescription): Promise<Store | undefined> {
  if (place === undefined) return description && openInMemoryStore(description)
  const wanted = description ? { description } : {}
  try {
    if (!isDatabase(place)) return await openLanceStore(place, wanted)
    const { address, ...options } = databaseOf(place)
    return await openPostgresStore(address, { ...wanted, ...options })
  } catch (error) {
    if (description === undefined && error instanceof ClaraError && /^There is no store /.test(error.message)) return
    throw error
  }
}

/** @throws ClaraError when the place holds none. */
export async function openExistingStore(place: string): Promise<Store> {
  const store = await openStore(place)
  if (store !== undefined) return store
  throw new ClaraError(`There is no store in ${JSON.stringify(placeName(place))}.`, {
    hint: 'Add documents first (clara add FILE …), or name another store.',
  })
}

/** @throws ClaraError when a store was not made by a knowledge base. */
export function settingsOf(store: Store, place: Place): StoreSettings {
  const parsed = storeSettingsSchema.safeParse(store.description.details)
  if (parsed.success) {
    const { vectors } = parsed.data
    const { vectorWidth } = store.description
    if ((vectorWidth === 0 || vectors.width === vectorWidth) && areWhole(vectors)) return parsed.data
  }
  throw new ClaraError(`The store ${JSON.stringify(placeName(place))} was not made by a knowledge base.`, {
    expected: 'a description that says how retrieval vectors are made',
    hint: 'Add the documents to a new store.',
  })
}

/** The address of a database without what is meant for this program. */
function databaseOf(place: string): {
  readonly address: string
  readonly schema?: string
  readonly connections?: number
} {
  if (!URL.canParse(place)) throw new ClaraError('The address of the database is no URL.')
  const url = new URL(place)
  const [schema, connections] = ['schema', 'connections'].map((name) => url.searchParams.get(name))
  if (connections && !/^[1-9]\d{0,3}$/.test(connections)) {
    throw new ClaraError('The address of the database does not say how many connections.', {
      expected: 'connections=N, an integer from 1',
      received: connections,
    })
  }
  for (const name of ['schema', 'connections']) url.searchParams.delete(name)
  return {
    address: schema || connections ? url.href : place,
    ...(schema ? { schema } : {}),
    ...(connections ? { connections: Number(connections) } : {}),
  }
}

import { afterAll } from 'vitest'
import { openPostgresStore } from '../../src/store/postgres/driver.ts'
import type { StoreDescription } from '../../src/store/store.ts'
import { describeStore } from './conformance.ts'
import { describeIndexGrowth } from './index-growth.ts'
import { openDatabase } from './pglite.ts'
import { describeSequences } from './sequences.ts'

/** A real server, when one is named; else PGlite, which takes one connection. */
const named = process.env.CLARA_TEST_POSTGRES
const database = named === undefined ? await openDatabase() : undefined
afterAll(() => database?.close())
const url = named ?? database?.url ?? ''
const connections = named === undefined ? 1 : 4

let stores = 0
const run = `clara_test_${process.pid}_${Date.now().toString(36)}`

describeStore('PostgreSQL', (description) =>
  openPostgresStore(url, { description, connections, schema: `${run}_${stores++}` }),
)

const place = async () => {
  const schema = `${run}_${stores++}`
  const open = (description: StoreDescription) => openPostgresStore(url, { description, connections, schema })
  return { open, durable: true }
}
describeSequences('PostgreSQL', place, 20)
describeIndexGrowth('PostgreSQL', (description, exactUpTo) =>
  openPostgresStore(url, { description, exactUpTo, connections, schema: `${run}_${stores++}` }),
)

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'
import { openLanceStore } from '../../src/store/lancedb/driver.ts'
import type { StoreDescription } from '../../src/store/store.ts'
import { describeStore } from './conformance.ts'
import { describeIndexGrowth } from './index-growth.ts'
import { describeSequences } from './sequences.ts'

const root = await mkdtemp(join(tmpdir(), 'clara-store-'))
afterAll(() => rm(root, { recursive: true, force: true }))

let stores = 0

describeStore('LanceDB', (description) => openLanceStore(join(root, `${stores++}`), { description }))

const place = async () => {
  const folder = join(root, `${stores++}`)
  return { open: (description: StoreDescription) => openLanceStore(folder, { description }), durable: true }
}
describeSequences('LanceDB', place, 6)
describeIndexGrowth('LanceDB', (description, exactUpTo) =>
  openLanceStore(join(root, `${stores++}`), { description, exactUpTo }),
)

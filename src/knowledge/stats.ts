import type { Store, StoreStats } from '../store/store.ts'
import { type MemoryKind, type Place, placeName, settingsOf } from './place.ts'
import { countDocuments } from './records.ts'

/** What is in a knowledge base. */
export interface KnowledgeStats extends StoreStats {
  /** Where it is kept. */
  readonly place: string
  /** Documents of which an add was interrupted: adding them again completes them. */
  readonly incomplete: number
  /** Files that documents were read from. */
  readonly files: number
  readonly memory: MemoryKind
  /** Identifies the model that wrote it. */
  readonly fingerprint: string
}

/** @throws ClaraError when the store was not made by a knowledge base. */
export async function statsOf(store: Store, place: Place): Promise<KnowledgeStats> {
  const { memory } = settingsOf(store, place)
  const stats = await store.stats()
  return {
    ...stats,
    ...(await countDocuments(store)),
    place: placeName(place),
    memory,
    fingerprint: store.description.fingerprint,
  }
}

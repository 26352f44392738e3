import type { Memory } from '../clara/encoder.ts'
import { type AddTarget, createAdder } from './adder.ts'
import { cuttingSettings } from './chunks.ts'
import { addFilesTo } from './files.ts'
import type { AddFilesOptions, FilesAdded, Synced } from './options.ts'
import { openStore, type Place } from './place.ts'
import { openRecords } from './records.ts'
import { createSeen, removeGone, type Seen } from './sync.ts'

/** What is to be known of a model where it is not in memory. */
export interface ModelFacts {
  readonly fingerprint: string
  readonly docMaxLength: number
}

/** Says that there is something to compress. */
class Changed extends Error {}

const changed = (): never => {
  throw new Changed('There is something to compress.')
}

/**
 * Adds files as a knowledge base does, as long as nothing has to be compressed: no model is needed to see that they are as they were when they
 * were added, with the same model and settings.
 * @returns undefined as soon as there is something to compress, or where there is no such store: then a knowledge base adds them, from the beginning.
 */
export async function addWithoutModel(
  place: Place,
  inputs: readonly string[],
  options: AddFilesOptions,
  facts: ModelFacts,
): Promise<FilesAdded | undefined> {
  const done = await withoutModel(place, inputs, options, facts)
  return done?.added
}

/** As {@link addWithoutModel}, for {@link KnowledgeBase.sync}. */
export async function syncWithoutModel(
  place: Place,
  inputs: readonly string[],
  options: AddFilesOptions,
  facts: ModelFacts,
): Promise<Synced | undefined> {
  const done = await withoutModel(place, inputs, options, facts)
  if (done === undefined) return undefined
  await using store = await openStore(place)
  return store && (await removeGone(store, inputs, options, done.seen, done.added))
}

async function withoutModel(
  place: Place,
  inputs: readonly string[],
  { signal, overlap, context, onProgress: _, ...reading }: AddFilesOptions,
  { fingerprint, docMaxLength }: ModelFacts,
): Promise<{ readonly added: FilesAdded; readonly seen: Seen } | undefined> {
  // standard input can be read once
  if (inputs.includes('-')) return undefined
  await using store = await openStore(place)
  if (store === undefined || store.description.fingerprint !== fingerprint) return undefined
  const target: AddTarget = {
    store: () => store,
    fingerprint,
    compress: async (): Promise<readonly Memory[]> => changed(),
    create: async () => changed(),
    row: changed,
  }
  const settings = cuttingSettings(docMaxLength, { overlap, context })
  const records = await openRecords(() => store)
  const seen = createSeen()
  try {
    const chunking = { maxTokens: docMaxLength, count: changed }
    const adder = createAdder({ target, records, chunking, settings, signal, onProgress: undefined })
    const files = await addFilesTo(inputs, {
      adder,
      records,
      reading,
      settings,
      signal,
      store: () => store,
      onEvent: seen.note,
    })
    await adder.finish()
    const { documents, compressed, unchanged } = adder.counts
    return { added: { documents, compressed, unchanged, files }, seen }
  } catch (error) {
    if (error instanceof Changed) return undefined
    throw error
  }
}

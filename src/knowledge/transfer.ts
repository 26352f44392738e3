import { importStore, readExport } from '../store/parquet.ts'
import { dequantiseMemory } from '../store/quantise.ts'
import type { StoreDescription, StoredMemory } from '../store/store.ts'
import { isDatabase, openStore, storeSettingsSchema } from './place.ts'
import { createVectors } from './vectors.ts'

/**
 * Reads an exported knowledge base into a place; a store is made there when there is none. A database needs retrieval vectors, which a folder may have
 * kept none of: they are made from the memory.
 * @returns How many passages were read.
 * @throws ClaraError when the file is no export, or does not fit the store that is there.
 */
export async function importInto(place: string, file: string): Promise<number> {
  const { description } = await readExport(file)
  const vectorOf = isDatabase(place) ? missingVectors(description) : undefined
  const wanted = vectorOf === undefined ? description : { ...description, vectorWidth: vectorOf.width }
  // an existing store is checked against the file below
  await using store = (await openStore(place)) ?? (await openStore(place, wanted))
  if (store === undefined) return 0
  const isWithout = store.description.vectorWidth === 0 && description.vectorWidth > 0
  return await importStore(store, file, isWithout ? () => new Float32Array() : vectorOf?.make)
}

/** How the vectors of a store that keeps none are made; undefined where it keeps them, or does not say. */
function missingVectors({
  vectorWidth,
  memoryWidth,
  details,
}: StoreDescription): { readonly width: number; readonly make: (memory: StoredMemory) => Float32Array } | undefined {
  const settings = storeSettingsSchema.safeParse(details)
  if (vectorWidth > 0 || !settings.success) return undefined
  const { vectors } = settings.data
  const vectorOf = createVectors({ similarity: vectors.similarity, hidden: memoryWidth, tokens: 1 }, vectors)
  return {
    width: vectors.width,
    make(memory) {
      const { tokens, n, width } = dequantiseMemory(memory)
      return vectorOf({ tokens, shape: [n, width] })
    },
  }
}

import { ClaraError } from '../errors.ts'
import { checkFilter } from './filter.ts'
import type { Float32Memory, StoreDescription, StoreRow, TextSearchOptions, VectorSearchOptions } from './store.ts'
import { checkFingerprint, checkLimit, checkMemory, checkRows, checkVector } from './validation.ts'

/* The checks that every driver's calls begin with. */

/** @throws ClaraError as {@link Store.add} does. */
export function checkAdd(
  rows: readonly StoreRow[],
  { fingerprint }: { readonly fingerprint: string },
  description: StoreDescription,
): void {
  checkFingerprint('A row to add', fingerprint, description)
  checkRows(rows, description)
}

/** @throws ClaraError as {@link Store.search} does. */
export function checkSearch(vector: Float32Array, options: VectorSearchOptions, description: StoreDescription): void {
  checkFingerprint('The query', options.fingerprint, description)
  if (description.vectorWidth === 0) {
    throw new ClaraError('The store keeps no retrieval vectors.', { hint: 'Search it by memory.' })
  }
  checkVector('The query vector', vector, description)
  checkTextSearch(options)
}

/** @throws ClaraError as {@link Store.searchMemory} does. */
export function checkMemorySearch(
  query: Float32Memory,
  options: VectorSearchOptions,
  description: StoreDescription,
): void {
  checkFingerprint('The query', options.fingerprint, description)
  checkMemory('the query', query, description.memoryWidth)
  checkTextSearch(options)
}

/** @throws ClaraError as {@link Store.searchText} does. */
export function checkTextSearch({ limit, filter }: Pick<TextSearchOptions, 'limit' | 'filter'>): void {
  checkLimit(limit)
  checkFilter(filter)
}

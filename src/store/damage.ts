import type { Damage, DocumentRecord } from './store.ts'

/** `verify` names at most this many. */
export const MOST_NAMED = 10_000

/** What a completely stored document lacks, or has in excess, of its rows. `chunks`: the numbers of those that are there. */
export function missingChunks(record: DocumentRecord, chunks: readonly number[] = []): Damage[] {
  const present = new Set(chunks)
  const missing: number[] = []
  for (let chunk = 0; chunk < record.chunks && missing.length < 20; chunk++)
    if (!present.has(chunk)) missing.push(chunk)
  if (missing.length === 0) return []
  return [
    {
      documentId: record.documentId,
      problem: `it has ${present.size} of its ${record.chunks} rows; missing: ${missing.join(', ')}${missing.length < 20 ? '' : ' …'}`,
    },
  ]
}

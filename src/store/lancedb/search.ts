import type { RecordBatch } from 'apache-arrow'
import type { Candidate, TextSearchOptions, VectorSearchOptions } from '../store.ts'
import { unitVector } from '../vector.ts'
import { wordsOf } from '../words.ts'
import { conditionOf } from './filter.ts'
import { numberAt, textAt } from './rows.ts'
import type { Tables } from './tables.ts'

/* What LanceDB itself searches: vectors and words. Options have been checked. */

/** Partitions of the vector index that a search looks into, and how many candidates it compares exactly: multiples of what is asked for, and a least. */
const PROBES = 32
const REFINE = 4
const LEAST_REFINED = 256
/** When no more rows than this pass a filter, an index has little to find among them: they are compared one by one. */
const EXACT_IF_PASSING = 2_000

export async function searchVectors(
  tables: Tables,
  vector: Float32Array,
  { limit, filter, exact }: VectorSearchOptions,
): Promise<Candidate[]> {
  const condition = conditionOf(filter)
  const query = tables.rows
    .query()
    .nearestTo(unitVector(vector))
    .column('vector')
    .distanceType('cosine')
    .select(['id', 'document_id', '_distance'])
    .limit(limit)
    .refineFactor(Math.max(REFINE, Math.ceil(LEAST_REFINED / limit)))
  if (condition !== undefined) query.where(condition)
  const share = exact ? 0 : await passingShare(tables, condition)
  if (share === 0) query.bypassVectorIndex()
  // The fewer rows pass, the farther apart they lie.
  else query.nprobes(Math.ceil(Math.max(PROBES, limit / 64) * Math.min(8, share ** -0.5)))
  const candidates = await candidatesOf(query, (batch, index) => 1 - numberAt(batch, '_distance', index))
  return candidates.map(({ score, ...rest }) => ({ ...rest, score: Math.max(-1, Math.min(1, score)) }))
}

export async function searchWords(
  { lance, rows }: Tables,
  query: string,
  { limit, filter }: TextSearchOptions,
): Promise<Candidate[]> {
  const words = [...new Set(wordsOf(query))].join(' ')
  if (words === '') return []
  const condition = conditionOf(filter)
  const search = rows
    .query()
    .fullTextSearch(new lance.MatchQuery(words, 'words'))
    .select(['id', 'document_id', '_score'])
    .limit(limit)
  if (condition !== undefined) search.where(condition)
  return candidatesOf(search, (batch, index) => numberAt(batch, '_score', index))
}

/** Which share of the rows meets a condition; 0 when these are so few that comparing with each is best. */
async function passingShare({ rows }: Tables, condition: string | undefined): Promise<number> {
  if (condition === undefined) return 1
  const passing = await rows.countRows(condition)
  return passing <= EXACT_IF_PASSING ? 0 : passing / (await rows.countRows())
}

async function candidatesOf(
  query: AsyncIterable<RecordBatch>,
  score: (batch: RecordBatch, index: number) => number,
): Promise<Candidate[]> {
  const candidates: Candidate[] = []
  for await (const batch of query) {
    for (let index = 0; index < batch.numRows; index++) {
      const id = textAt(batch, 'id', index)
      candidates.push({ id, documentId: textAt(batch, 'document_id', index), score: score(batch, index) })
    }
  }
  return candidates.sort(byScore)
}

/** The best first, equal ones by id. */
export function byScore(a: Candidate, b: Candidate): number {
  return b.score - a.score || (a.id < b.id ? -1 : 1)
}

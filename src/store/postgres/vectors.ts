import type { Pool } from 'pg'
import type { Candidate, VectorSearchOptions } from '../store.ts'
import { unitVector } from '../vector.ts'
import { inTransaction } from './connection.ts'
import { conditionOf, Parameters } from './filter.ts'
import { unescaped } from './text.ts'

/** Candidates by the compact vector. `approximate`: through the index, whose halves are compared again in full. Options have been checked. */
export async function searchVectors(
  pool: Pool,
  table: string,
  vector: Float32Array,
  options: VectorSearchOptions,
  approximate: boolean,
): Promise<Candidate[]> {
  const width = vector.length
  const parameters = new Parameters()
  const query = `${parameters.add(`[${unitVector(vector).join(',')}]`)}::vector(${width})`
  const condition = conditionOf(options.filter, parameters)
  const limit = parameters.add(options.limit)
  const source = approximate
    ? `(SELECT id, document_id, vector FROM ${table} WHERE ${condition}
        ORDER BY vector::halfvec(${width}) <=> ${query}::halfvec(${width}) LIMIT 2 * ${limit}::bigint)`
    : `(SELECT id, document_id, vector FROM ${table} WHERE ${condition})`
  const text = `SELECT id, document_id, 1 - (vector <=> ${query}) AS score FROM ${source} AS candidates
    ORDER BY vector <=> ${query}, id COLLATE "C" LIMIT ${limit}`
  return inTransaction(pool, async (client) => {
    if (approximate) {
      const breadth = Math.min(1000, Math.max(100, 2 * options.limit))
      await client.query("SELECT set_config('hnsw.ef_search', $1, true)", [String(breadth)])
      await client.query("SELECT set_config('hnsw.iterative_scan', 'strict_order', true)")
    }
    const { rows } = await client.query<{ id: string; document_id: string; score: number }>(text, parameters.values)
    return rows
      .map(({ id, document_id, score }) => ({
        id: unescaped(id),
        documentId: unescaped(document_id),
        score: Math.max(-1, Math.min(1, score)),
      }))
      .sort((a, b) => b.score - a.score || (a.id < b.id ? -1 : 1))
  })
}

import type { Pool } from 'pg'
import { B, inverseFrequency, K1 } from '../bm25.ts'
import type { Candidate, TextSearchOptions } from '../store.ts'
import { wordsOf } from '../words.ts'
import { conditionOf, Parameters } from './filter.ts'
import { unescaped } from './text.ts'

/*
 * BM25 in SQL. PostgreSQL's own ranking knows no rarity of words; but a tsvector tells how often a row holds a word, and its
 * index which rows hold it.
 */

/** Rows with a word are counted up to this many: beyond, it is common, and its exact frequency does not matter. */
const COUNTED = 50_000
/** With more rows than this, their number and mean length are taken from a sample. */
const SAMPLED = 100_000

export async function searchText(
  pool: Pool,
  table: string,
  text: string,
  { limit, filter }: TextSearchOptions,
): Promise<Candidate[]> {
  const words = [...new Set(wordsOf(text))]
  if (words.length === 0) return []
  const { rows: count, mean } = await sizes(pool, table)
  const { rows: frequencies } = await pool.query<{ word: string; frequency: string }>(
    `SELECT word, (SELECT count(*) FROM (SELECT FROM ${table} WHERE words @@ asked::tsquery LIMIT ${COUNTED}) AS limited) AS frequency
     FROM unnest($1::text[], $2::text[]) AS words (word, asked)`,
    [words, words.map(quoted)],
  )
  const found = frequencies
    .map(({ word, frequency }) => ({ word, frequency: Number(frequency) }))
    .filter(({ frequency }) => frequency > 0)
  if (found.length === 0) return []
  // Rows that hold nothing but very common words are looked at only when there is no rarer word to go by.
  const rarer = found.filter(({ frequency }) => frequency < COUNTED)
  const leading = rarer.length > 0 ? rarer : found
  const parameters = new Parameters()
  const named = parameters.add(found.map(({ word }) => word))
  const weights = parameters.add(found.map(({ frequency }) => inverseFrequency(Math.max(count, frequency), frequency)))
  const asked = parameters.add(leading.map(({ word }) => quoted(word)).join(' | '))
  const relative = `length / ${parameters.add(Math.max(mean, 1e-9))}::float8`
  const condition = conditionOf(filter, parameters)
  const { rows } = await pool.query<{ id: string; document_id: string; score: number }>(
    `SELECT id, document_id, score FROM ${table} JOIN LATERAL (
       SELECT sum(idf * tf * ${K1 + 1} / (tf + ${K1} * (${1 - B} + ${B} * ${relative}))) AS score
       FROM unnest(words) AS held (lexeme, positions, weights)
       JOIN unnest(${named}::text[], ${weights}::float8[]) AS asked (word, idf) ON word = lexeme,
       LATERAL (SELECT cardinality(positions)::float8 AS tf) AS times
     ) AS scored ON true
     WHERE words @@ ${asked}::tsquery AND ${condition}
     ORDER BY score DESC, id COLLATE "C" LIMIT ${parameters.add(limit)}`,
    parameters.values,
  )
  return rows.map(({ id, document_id, score }) => ({
    id: unescaped(id),
    documentId: unescaped(document_id),
    score,
  }))
}

/** The word as PostgreSQL's text of a query; words are letters, digits and marks only. */
function quoted(word: string): string {
  return `'${word}'`
}

async function sizes(pool: Pool, table: string): Promise<{ rows: number; mean: number }> {
  const { rows: estimates } = await pool.query<{ rows: number }>(
    'SELECT reltuples::float8 AS rows FROM pg_class WHERE oid = $1::regclass',
    [table],
  )
  const estimate = estimates[0]?.rows ?? 0
  const sample = estimate > SAMPLED ? `TABLESAMPLE SYSTEM (${(100 * SAMPLED) / 10 / estimate})` : ''
  const { rows } = await pool.query<{ rows: string; mean: number | null }>(
    `SELECT count(*) AS rows, avg(length)::float8 AS mean FROM ${table} ${sample}`,
  )
  return { rows: sample === '' ? Number(rows[0]?.rows ?? 0) : estimate, mean: rows[0]?.mean ?? 1 }
}

import { createHash } from 'node:crypto'
import type { PoolClient } from 'pg'
import { ClaraError } from '../../errors.ts'

/** Two numbers that stand for the store among the database's advisory locks. */
export function lockKeys(schema: string): [number, number] {
  const hash = createHash('sha256').update(`clara ${schema}`).digest()
  return [hash.readInt32BE(0), hash.readInt32BE(4)]
}

/** Excludes other writers until the transaction ends. */
export async function lockStore(client: PoolClient, schema: string, timeout: number): Promise<void> {
  const keys = lockKeys(schema)
  await client.query("SELECT set_config('lock_timeout', $1, true)", [`${Math.max(1, Math.round(timeout))}ms`])
  try {
    await client.query('SAVEPOINT before_lock')
    await client.query('SELECT pg_advisory_xact_lock($1, $2)', keys)
    await client.query("SELECT set_config('lock_timeout', '0', true)")
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === '55P03')) throw error
    await client.query('ROLLBACK TO SAVEPOINT before_lock')
    const { rows } = await client.query<{ pid: number; name: string; address: string | null }>(
      `SELECT a.pid, a.application_name AS name, host(a.client_addr) AS address
       FROM pg_locks l JOIN pg_stat_activity a USING (pid)
       WHERE l.locktype = 'advisory' AND l.granted AND l.classid::bigint = $1 AND l.objid::bigint = $2`,
      keys.map((key) => key >>> 0),
    )
    const [holder] = rows
    const who = holder
      ? `database session ${holder.pid}, "${holder.name}"${holder.address === null ? '' : `, from ${holder.address}`}`
      : 'another session'
    throw new ClaraError(`Another writer holds the store: ${who}.`, {
      expected: `it to finish within ${timeout / 1000} s`,
      hint: 'Wait for it, or end it. Reading works meanwhile.',
      cause: error,
    })
  }
}

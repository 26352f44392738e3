import { setTimeout as sleep } from 'node:timers/promises'
import type { Pool, PoolClient } from 'pg'
import { ClaraError } from '../../errors.ts'

/* Connections, transactions, and what happens when the database goes away in the middle. */

/**
 * Opens a pool of connections.
 * @throws ClaraError when the package `pg` is not installed.
 */
export async function openPool(url: string, connections: number): Promise<Pool> {
  let module: typeof import('pg')
  try {
    module = await import('pg')
  } catch (cause) {
    throw new ClaraError('The package "pg", which speaks to PostgreSQL, is not installed.', {
      hint: 'Run: npm install pg',
      cause,
    })
  }
  const pool = new module.default.Pool({
    connectionString: url,
    max: connections,
    application_name: `clara (process ${process.pid})`,
    // This counts the wait for a connection that is busy too, so it is long.
    connectionTimeoutMillis: 120_000,
  })
  // A connection that breaks while nobody uses it is replaced at the next query; without a listener it would end the process.
  pool.on('error', () => undefined)
  return pool
}

/** Runs on one connection, in a transaction. */
export async function inTransaction<Value>(pool: Pool, run: (client: PoolClient) => Promise<Value>): Promise<Value> {
  const client = await pool.connect()
  let broken: Error | undefined
  const onError = (error: Error) => {
    broken = error
  }
  client.on('error', onError)
  try {
    await client.query('BEGIN')
    const value = await run(client)
    await client.query('COMMIT')
    return value
  } catch (error) {
    if (isDisconnection(error)) broken = error instanceof Error ? error : new Error(String(error))
    else await client.query('ROLLBACK').catch((failed: Error) => (broken = failed))
    throw error
  } finally {
    client.off('error', onError)
    client.release(broken ?? false)
  }
}

/** Runs again when the connection was lost, for up to `patience` milliseconds: every call can be repeated without harm. */
export async function withRetries<Value>(patience: number, run: () => Promise<Value>): Promise<Value> {
  const deadline = performance.now() + patience
  for (let delay = 50; ; delay = Math.min(delay * 2, 1_000)) {
    try {
      return await run()
    } catch (error) {
      if (!isDisconnection(error) || performance.now() + delay > deadline) throw explained(error)
      await sleep(delay)
    }
  }
}

/** PostgreSQL's classes of errors that say the connection is gone or the server stops or starts, and the system's. */
const gone = /^(08|57P0)|^(ECONNREFUSED|ECONNRESET|EPIPE|ETIMEDOUT|ENOTFOUND|EAI_AGAIN|EHOSTUNREACH)$/

function isDisconnection(error: unknown): boolean {
  if (!(error instanceof Error)) return false
  if ('code' in error && typeof error.code === 'string' && gone.test(error.code)) return true
  return /Connection terminated|timeout exceeded when trying to connect|Client has encountered a connection error/.test(
    error.message,
  )
}

/** A database's error as the user should see it; any other as it is. */
function explained(error: unknown): unknown {
  if (error instanceof ClaraError || !(error instanceof Error)) return error
  if (isDisconnection(error)) {
    return new ClaraError('The database cannot be reached.', {
      received: error.message || ('code' in error ? String(error.code) : 'no answer'),
      hint: 'See that it runs and that the address is right, and repeat the call: what was acknowledged is safe.',
      cause: error,
    })
  }
  const code = 'code' in error ? String(error.code) : ''
  const known = problems[code]
  if (known === undefined && !/^[0-9A-Z]{5}$/.test(code)) return error
  return new ClaraError(known?.problem ?? 'The database refused a statement.', {
    received: `${error.message} (SQLSTATE ${code})`,
    ...(known === undefined ? {} : { hint: known.hint }),
    cause: error,
  })
}

const problems: Readonly<Record<string, { readonly problem: string; readonly hint: string }>> = {
  '53100': {
    problem: "The database's disk is full.",
    hint: 'What was acknowledged is safe. Free some space and add the rest again.',
  },
  '25006': { problem: 'The database is read-only.', hint: 'Reading works. To write, connect to the primary server.' },
  '42501': { problem: 'The database does not allow it.', hint: 'Grant the user rights on the schema and its tables.' },
  '28P01': { problem: 'The database did not accept the password.', hint: 'Correct it in the address.' },
  '28000': { problem: 'The database did not accept the user.', hint: 'Correct it in the address.' },
  '3D000': { problem: 'There is no such database.', hint: 'Create it first, or correct the address.' },
}

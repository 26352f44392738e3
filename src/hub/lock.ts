import { randomUUID } from 'node:crypto'
import { link, readFile, rename, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { hostname } from 'node:os'
import { setTimeout as sleep } from 'node:timers/promises'

const heartbeatMs = 2_000
const abandonedAfterMs = 60_000
const lookAgainMs = 200

/**
 * Runs `work` while holding a lock that other processes respect. It is a file with the owner's machine and process; a lock whose owner
 * ended, or has not refreshed it for a minute, is taken over. Two owners would waste traffic but spoil nothing: contents have one name.
 *
 * @param onWait Called once when another owner has the lock.
 * @throws The signal's reason when it aborts while waiting.
 */
export async function whileLocked<T>(
  path: string,
  signal: AbortSignal | undefined,
  onWait: () => void,
  work: () => Promise<T>,
): Promise<T> {
  const mine = `${hostname()}\n${process.pid}\n${randomUUID()}\n`
  for (let told = false; !(await take(path, mine)); ) {
    await removeAbandoned(path)
    if (!told) onWait()
    told = true
    await sleep(lookAgainMs, undefined, signal === undefined ? {} : { signal })
  }
  const heartbeat = setInterval(() => {
    const now = new Date()
    utimes(path, now, now).catch(() => undefined)
  }, heartbeatMs)
  try {
    return await work()
  } finally {
    clearInterval(heartbeat)
    if ((await textOf(path)) === mine) await rm(path, { force: true })
  }
}

async function take(path: string, mine: string): Promise<boolean> {
  try {
    await writeFile(path, mine, { flag: 'wx' })
    return true
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false
    throw error
  }
}

const textOf = (path: string): Promise<string | undefined> => readFile(path, 'utf8').catch(() => undefined)

async function removeAbandoned(path: string): Promise<void> {
  const text = await textOf(path)
  const facts = await stat(path).catch(() => undefined)
  if (text === undefined || facts === undefined) return
  if (!ownerEnded(text) && Date.now() - facts.mtimeMs < abandonedAfterMs) return
  const aside = `${path}.${randomUUID()}.tmp`
  try {
    await rename(path, aside)
    // A faster process may have taken the lock between our reading and our renaming: give it back.
    if ((await textOf(aside)) !== text) await link(aside, path)
  } catch {
    // Somebody else moved it first; the next round looks again.
  }
  await rm(aside, { force: true })
}

function ownerEnded(text: string): boolean {
  const [host, pid] = text.split('\n')
  if (host !== hostname() || !/^\d+$/.test(pid ?? '')) return false
  try {
    process.kill(Number(pid), 0)
    return false
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'ESRCH'
  }
}

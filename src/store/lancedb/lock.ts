import { randomBytes } from 'node:crypto'
import { closeSync, openSync, utimesSync, writeSync } from 'node:fs'
import { mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises'
import { hostname } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { ClaraError } from '../../errors.ts'

/*
 * One writer at a time, among all processes that have the folder open: the lock is a file that only one can create, with its holder's name in it. A
 * holder that died is recognised: on the same machine by its process, elsewhere by a file that is no longer touched.
 */

/** A holder touches its lock this often, and is taken for dead on another machine when it has not for so long. Milliseconds. */
const HEARTBEAT = 5_000
const STALE = 60_000

interface Holder {
  readonly pid: number
  readonly host: string
  /** When that process began, where the system tells: process ids are used again. */
  readonly began: string
  readonly token: string
}

/**
 * Waits for the lock and takes it.
 *
 * @param path The lock's file.
 * @param wait Milliseconds to wait for another holder.
 * @returns Gives the lock back.
 * @throws ClaraError that names the holder when it does not give the lock back in time; the system's own error when no file can be made.
 */
export async function lock(path: string, wait: number): Promise<() => Promise<void>> {
  const mine: Holder = { pid: process.pid, host: hostname(), began: await began(process.pid), token: token() }
  const deadline = performance.now() + wait
  for (let delay = 2; ; delay = Math.min(delay * 1.5, 100)) {
    if (create(path, JSON.stringify(mine))) break
    const holder = await holderOf(path)
    if (holder !== 'gone' && (await isDead(path, holder))) {
      await clear(path, holder)
      continue
    }
    if (performance.now() > deadline) throw held(path, wait, holder)
    await sleep(delay * (0.5 + Math.random()))
  }
  const heartbeat = setInterval(() => touch(path), HEARTBEAT)
  heartbeat.unref()
  return async () => {
    clearInterval(heartbeat)
    const holder = await holderOf(path)
    if (typeof holder === 'object' && holder.token === mine.token) await rm(path, { force: true })
  }
}

/**
 * Leaves a note in a folder that somebody still needs what there was at a time; it is taken for void when its process has died.
 * @returns Takes it back.
 */
export async function pin(folder: string, time: Date): Promise<() => Promise<void>> {
  const mine: Holder = { pid: process.pid, host: hostname(), began: await began(process.pid), token: token() }
  const path = join(folder, `${time.getTime()}-${mine.token}`)
  try {
    await mkdir(folder, { recursive: true })
    create(path, JSON.stringify(mine))
  } catch {
    // A folder that may not be written: its reader takes its chance.
    return async () => undefined
  }
  const heartbeat = setInterval(() => touch(path), HEARTBEAT)
  heartbeat.unref()
  return async () => {
    clearInterval(heartbeat)
    await rm(path, { force: true })
  }
}

/** The earliest time that a live process has pinned in the folder; undefined when there is none. Removes the notes of the dead. */
export async function earliestPin(folder: string): Promise<Date | undefined> {
  const names = await readdir(folder).catch(() => [])
  const times: number[] = []
  for (const name of names) {
    const path = join(folder, name)
    const holder = await holderOf(path)
    if (holder === 'gone') continue
    if (await isDead(path, holder)) await rm(path, { force: true })
    else times.push(Number(name.split('-')[0]))
  }
  return times.length === 0 ? undefined : new Date(Math.min(...times))
}

function create(path: string, content: string): boolean {
  // synchronous, so that the process cannot be seen between creating the file and writing its name
  let file: number
  try {
    file = openSync(path, 'wx')
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'EEXIST') return false
    throw error
  }
  try {
    writeSync(file, content)
  } finally {
    closeSync(file)
  }
  return true
}

/** Who holds the lock; `unknown` for a file without a whole name in it, `gone` when it has just been given back. */
async function holderOf(path: string): Promise<Holder | 'unknown' | 'gone'> {
  let content: string
  try {
    content = await readFile(path, 'utf8')
  } catch {
    return 'gone'
  }
  try {
    const { pid, host, began, token } = JSON.parse(content)
    if (typeof pid === 'number' && typeof host === 'string' && typeof began === 'string' && typeof token === 'string') {
      return { pid, host, began, token }
    }
  } catch {
    // cut off while it was written
  }
  return 'unknown'
}

async function isDead(path: string, holder: Holder | 'unknown'): Promise<boolean> {
  if (holder !== 'unknown' && holder.host === hostname()) {
    return !runs(holder.pid) || (await began(holder.pid)) !== holder.began
  }
  const age = Date.now() - (await stat(path).then(({ mtimeMs }) => mtimeMs, Date.now))
  // Writing a name takes no time, so a file that has none for a second never will.
  return age > (holder === 'unknown' ? 1_000 : STALE)
}

/** Removes a dead holder's lock; of several that try, one succeeds, and none removes the lock that a third has taken since. */
async function clear(path: string, dead: Holder | 'unknown'): Promise<void> {
  const guard = `${path}.clearing`
  if (!create(guard, '')) {
    // Whoever clears takes no time; a guard that stays has lost its owner.
    const age = Date.now() - (await stat(guard).then(({ mtimeMs }) => mtimeMs, Date.now))
    if (age > 10_000) await rm(guard, { force: true })
    await sleep(5)
    return
  }
  try {
    const now = await holderOf(path)
    const same = typeof now === 'object' && typeof dead === 'object' ? now.token === dead.token : now === dead
    if (!same) return
    const aside = `${path}.${token()}`
    await rename(path, aside)
    await rm(aside, { force: true })
  } finally {
    await rm(guard, { force: true })
  }
}

function runs(pid: number): boolean {
  try {
    process.kill(pid, 0)
    return true
  } catch (error) {
    return error instanceof Error && 'code' in error && error.code === 'EPERM'
  }
}

/** When a process began, in the system's own terms; empty where they are unknown. */
async function began(pid: number): Promise<string> {
  try {
    // proc(5): the 22nd field of stat, counted behind the name, which stands in parentheses and may hold any character
    const status = await readFile(`/proc/${pid}/stat`, 'utf8')
    return status.slice(status.lastIndexOf(')') + 2).split(' ')[19] ?? ''
  } catch {
    return ''
  }
}

function touch(path: string): void {
  const now = new Date()
  try {
    utimesSync(path, now, now)
  } catch {
    // given back, or the folder is gone: the next write says so
  }
}

function token(): string {
  return randomBytes(8).toString('hex')
}

function held(path: string, wait: number, holder: Holder | 'unknown' | 'gone'): ClaraError {
  const who = typeof holder === 'object' ? `process ${holder.pid} on ${holder.host}` : 'another process'
  return new ClaraError(`Another writer holds the store: ${who}.`, {
    expected: `it to finish within ${wait / 1000} s`,
    hint: `Wait for it or end it; if there is no such process, delete "${path}". Reading works meanwhile.`,
  })
}

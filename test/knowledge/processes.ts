import { spawn } from 'node:child_process'
import { dirname } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { expect } from 'vitest'
import { KnowledgeBase } from '../../src/knowledge/knowledge-base.ts'
import { fakeModel } from './fake-model.ts'

const script = fileURLToPath(new URL('./adder.ts', import.meta.url))
const root = dirname(dirname(dirname(script)))
/** Passages of each document that `adder.ts` adds, and documents that it adds at a time. */
const PASSAGES = 8
const AT_ONCE = 20

/**
 * Adds documents in a process of its own.
 * @param killAfterMs When to kill it, from the moment it begins; undefined: not at all.
 * @returns Of how many documents it said that they are safe.
 */
async function add(folder: string, documents: number, killAfterMs: number | undefined): Promise<number> {
  const child = spawn(process.execPath, ['--import', 'tsx', script, folder, String(documents)], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let acknowledged = 0
  createInterface({ input: child.stdout }).on('line', (line) => {
    if (line !== 'ready') acknowledged = Number(line)
    else if (killAfterMs !== undefined) setTimeout(() => child.kill('SIGKILL'), killAfterMs)
  })
  const status = await new Promise((resolve) => child.on('close', (code, signal) => resolve(signal ?? code)))
  expect(['SIGKILL', 0]).toContain(status)
  return acknowledged
}

/**
 * Kills a process again and again while it adds documents to one knowledge base, each time at another random moment. After every kill the store opens, is
 * sound, and holds every acknowledged document once; at last the adding is let run to its end.
 * @param longest Milliseconds of the longest life of a process, from when it begins to add.
 */
export async function killWhileAdding(path: string, rounds: number, longest: number): Promise<void> {
  let safe = 0
  for (let round = 0; round < rounds; round++) {
    // early ones strike while the store is made or opened, later ones between and inside writes
    const acknowledged = await add(path, safe + 2_000, Math.random() ** 2 * longest)
    safe = Math.max(safe, acknowledged)
    await check(path, safe, AT_ONCE)
  }
  const documents = safe + AT_ONCE
  expect(await add(path, documents, undefined)).toBe(documents)
  await check(path, documents, 0)
}

/** @param pending Documents more than those that may be there, completely or not: what was on its way when the process was killed. */
async function check(path: string, safe: number, pending: number): Promise<void> {
  await using knowledge = await KnowledgeBase.open(path, { clara: fakeModel() })
  expect((await knowledge.verify()).damaged).toEqual([])
  const { documents = 0, incomplete = 0, chunks = 0 } = (await knowledge.stats()) ?? {}
  expect(documents).toBeGreaterThanOrEqual(safe)
  const ids = Array.from({ length: safe }, (_, index) => `d${index}`)
  expect(await knowledge.count({ documentIds: ids })).toBe(PASSAGES * safe)
  // earlier processes may have gone further than the last one
  if (pending > 0) return
  expect({ documents, incomplete, chunks }).toEqual({ documents, incomplete: 0, chunks: PASSAGES * documents })
}

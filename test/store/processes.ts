import { type ChildProcess, spawn } from 'node:child_process'
import { dirname } from 'node:path'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { expect } from 'vitest'
import { openLanceStore } from '../../src/store/lancedb/driver.ts'

const script = fileURLToPath(new URL('./adder.ts', import.meta.url))
const root = dirname(dirname(dirname(script)))
const adder = [process.execPath, '--import', 'tsx', script] as const

export interface Running {
  readonly process: ChildProcess
  /** What it has said so far. */
  readonly lines: string[]
  /** Fulfilled with its last words, when it has ended. */
  readonly ended: Promise<string[]>
}

/** Starts a process of `adder.ts`. `through`: a program that starts it, with its arguments. */
export function start(
  task: 'add' | 'fill' | 'write',
  folder: string,
  number: number,
  options: { readonly through?: readonly string[]; readonly user?: number } = {},
): Running {
  const [program = '', ...args] = [...(options.through ?? []), ...adder, task, folder, String(number)]
  const child = spawn(program, args, {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
    ...(options.user === undefined ? {} : { uid: options.user, gid: options.user }),
  })
  const lines: string[] = []
  const errors: Buffer[] = []
  child.stderr?.on('data', (data: Buffer) => errors.push(data))
  const reader = createInterface({ input: child.stdout })
  reader.on('line', (line) => lines.push(line))
  const ended = new Promise<string[]>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => {
      if (code === 0 || signal === 'SIGKILL') resolve(lines)
      else reject(new Error(`${task} ended with ${code ?? signal}: ${Buffer.concat(errors).toString().slice(0, 2000)}`))
    })
  })
  return { process: child, lines, ended }
}

/**
 * Kills a process again and again while it adds documents to one store, each time at another random moment. After every kill the store opens, is whole, and holds
 * every acknowledged document once; at last the adding is let run to its end.
 */
export async function killWhileAdding(folder: string, rounds: number): Promise<void> {
  let documents = 0
  let acknowledged = 0
  for (let round = 0; round < rounds; round++) {
    documents = acknowledged + 1_000
    const running = start('add', folder, documents)
    while (running.lines.length === 0 && running.process.exitCode === null) await sleep(5)
    // early ones strike while the store is made or opened, later ones between and inside writes
    await sleep(Math.random() ** 2 * 2_500)
    running.process.kill('SIGKILL')
    const lines = await running.ended
    acknowledged = Math.max(acknowledged, lines.length - 1)
    await checkStore(folder, acknowledged)
  }
  const lines = await start('add', folder, acknowledged + 3).ended
  expect(lines.at(-1)).toBe(String(acknowledged + 2))
  await checkStore(folder, acknowledged + 3)
}

/** The store is whole, and holds documents 0 to `acknowledged` - 1 completely, and each row once. */
export async function checkStore(folder: string, acknowledged: number): Promise<void> {
  const description = { fingerprint: 'model-a', memoryWidth: 64, vectorWidth: 8 }
  await using store = await openLanceStore(folder, { description })
  expect((await store.verify()).damaged).toEqual([])
  const documents = new Set<string>()
  for await (const { documentId } of store.documents()) {
    expect(documents.has(documentId)).toBe(false)
    documents.add(documentId)
  }
  const ids: string[] = []
  for await (const { id } of store.iterate()) ids.push(id)
  expect(new Set(ids).size).toBe(ids.length)
  const present = new Set(ids)
  for (let document = 0; document < acknowledged; document++) {
    expect(documents.has(`d${document}`)).toBe(true)
    for (const chunk of [0, 1, 2]) expect(present.has(`d${document}#${chunk}`)).toBe(true)
  }
}

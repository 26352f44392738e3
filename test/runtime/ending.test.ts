import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { Worker } from 'node:worker_threads'
import { describe, expect, test, vi } from 'vitest'
import { float32 } from '../../src/graph/dtype.ts'
import { openRuntime } from '../../src/runtime/runtime.ts'
import { doubling, long, ones } from './graphs.ts'

/** The threads that runtimes start, so that one of them can be made to die. */
const workers: Worker[] = vi.hoisted(() => [])
vi.mock('node:worker_threads', async (original) => {
  const actual = await original<typeof import('node:worker_threads')>()
  class Recorded extends actual.Worker {
    constructor(...parameters: ConstructorParameters<typeof actual.Worker>) {
      super(...parameters)
      workers.push(this)
    }
  }
  return { ...actual, Worker: Recorded }
})

describe('closing', () => {
  test('waits for the run that is under way, and refuses what comes later', async () => {
    const runtime = await openRuntime({ threads: 1 })
    const session = await runtime.open(long(20))
    const order: string[] = []
    const run = session.run({ x: ones() }).then(({ y }) => order.push(`run ${y?.dims}`))
    const closed = runtime.close().then(() => order.push('close'))
    await expect(runtime.allocate('float32', [1])).rejects.toThrow(/The runtime is closed. Open a new one/)
    await Promise.all([run, closed])
    expect(order).toEqual(['run 512,512', 'close'])
    await runtime.close()
    await expect(session.run({ x: ones() })).rejects.toThrow(/The runtime is closed/)
  })

  test('leaves no listener on the process', async () => {
    const before = process.listenerCount('exit')
    for (let i = 0; i < 2; i++) await (await openRuntime({ threads: 1 })).close()
    expect(process.listenerCount('exit')).toBe(before)
  })
})

describe('a thread that dies', () => {
  test('rejects what was pending and everything later', async () => {
    const runtime = await openRuntime({ threads: 1 })
    const session = await runtime.open(doubling([1]))
    // a message that the thread does not understand kills it before it comes to the run behind
    workers.at(-1)?.postMessage(null)
    await expect(session.run({ x: float32([1], [1]) })).rejects.toThrow(
      /The runtime thread failed. Got .*Open a new runtime/,
    )
    await expect(runtime.allocate('float32', [1])).rejects.toThrow(/The runtime thread failed/)
    await runtime.close()
  })
})

/** Exit code and errors of a program that ends itself in the middle of its work. */
function exitOf(mode: string): Promise<{ code: number | null; signal: string | null; stderr: string; stdout: string }> {
  const program = fileURLToPath(new URL('./exits.ts', import.meta.url))
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['--import', 'tsx', program, mode], { stdio: ['ignore', 'pipe', 'pipe'] })
    let [stdout, stderr] = ['', '']
    child.stdout.on('data', (chunk) => {
      stdout += chunk
    })
    child.stderr.on('data', (chunk) => {
      stderr += chunk
    })
    child.on('error', reject)
    child.on('close', (code, signal) => resolve({ code, signal, stdout, stderr }))
  })
}

describe('the end of the process', () => {
  test.each([
    ['during', 'in the middle of a run'],
    ['at-once', 'before the thread has begun with a run'],
    ['queued', 'with more runs and other calls waiting'],
    ['closing', 'while the runtime closes'],
  ])('%s: %s', async (mode) => {
    expect(await exitOf(mode)).toEqual({ code: 0, signal: null, stderr: '', stdout: 'leaving\n' })
  })

  test('an open runtime does not keep a finished program alive', async () => {
    expect(await exitOf('idle')).toEqual({ code: 0, signal: null, stderr: '', stdout: 'leaving\n' })
  })
})

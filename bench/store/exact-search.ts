import { once } from 'node:events'
import { Worker } from 'node:worker_threads'
import { askedDirections } from '../../src/store/late/scorer.ts'
import type { Int8Memory } from '../../src/store/store.ts'
import type { BruteForce } from './brute-force.ts'

export type ExactMessage =
  | { readonly kind: 'passage'; readonly memory: Int8Memory }
  | {
      readonly kind: 'question'
      readonly integers: Int16Array
      readonly scale: number
      readonly questions: number
    }

/** Brute force by the exact score: holds int8 memories in threads, each an equal share, and scores them with the kernel that scores a search's candidates. */
export function openExactSearch(memories: readonly Int8Memory[], threads: number): BruteForce {
  const program = new URL('./exact-worker.ts', import.meta.url).href
  // a thread does not inherit what lets the main one load TypeScript
  const start = `import('${import.meta.resolve('tsx/esm/api')}').then(({ register }) => { register(); return import('${program}') })`
  const workers = Array.from({ length: threads }, () => new Worker(start, { eval: true }))
  const share = Math.ceil(memories.length / threads)
  const post = (worker: Worker, message: ExactMessage) => worker.postMessage(message)
  for (const [index, memory] of memories.entries()) {
    const worker = workers[Math.floor(index / share)]
    if (worker) post(worker, { kind: 'passage', memory })
  }
  return {
    async scores({ tokens, shape: [questions, width] }) {
      const asked = { kind: 'question', ...askedDirections(tokens, width), questions } as const
      const parts = await Promise.all(
        workers.map(async (worker) => {
          post(worker, asked)
          const [part]: Float32Array[] = await once(worker, 'message')
          return part ?? new Float32Array()
        }),
      )
      const all = new Float32Array(memories.length)
      parts.forEach((part, index) => {
        all.set(part, index * share)
      })
      return all
    },
    async [Symbol.asyncDispose]() {
      await Promise.all(workers.map((worker) => worker.terminate()))
    },
  }
}

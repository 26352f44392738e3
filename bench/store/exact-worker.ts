/** A thread that holds passages and scores all of them against a question, with the kernel that scores a search's candidates. */
import { parentPort } from 'node:worker_threads'
import { Arena, openKernel } from '../../src/store/late/kernel.ts'
import type { ExactMessage } from './exact-search.ts'

const kernel = openKernel()
const arena = new Arena(kernel.memory)
const passages: { readonly tokens: number; readonly n: number; readonly width: number }[] = []

parentPort?.on('message', (message: ExactMessage) => {
  if (message.kind === 'passage') {
    const { tokens, n, width } = message.memory
    const place = arena.take(tokens.length)
    new Int8Array(kernel.memory.buffer).set(tokens, place)
    passages.push({ tokens: place, n, width })
    return
  }
  const { integers, scale, questions } = message
  const before = arena.used
  const asked = arena.take(integers.byteLength)
  const best = arena.take(4 * questions)
  new Int16Array(kernel.memory.buffer).set(integers, asked / 2)
  const scores = Float32Array.from(
    passages,
    ({ tokens, n, width }) => kernel.maxSimilarity(asked, questions, tokens, n, width, best) / scale,
  )
  arena.reset(before)
  parentPort?.postMessage(scores)
})

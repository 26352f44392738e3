// The process in which untrusted PDF, Word and HTML files are parsed, so that one that never ends, fills the memory or crashes the parser
// costs an error and nothing else. Its main thread only watches; the parsers run in a second thread.
// Plain JavaScript, because TypeScript does not load here without a build step.
import { createHash } from 'node:crypto'
import { readFile } from 'node:fs/promises'
import { isMainThread, parentPort, Worker } from 'node:worker_threads'
import { Refusal } from './refusal.mjs'

/**
 * @typedef {{ kind: 'pdf' | 'docx' | 'html', bytes?: Uint8Array, text?: string, file?: string, sha256?: string,
 *   limits: { pages: number, characters: number, unpackedBytes: number } }} Job
 * @typedef {{ text: string, title?: string, headings: { level: number, title: string, start: number, end: number }[],
 *   pages?: { number: number, start: number, end: number }[], metadata: Record<string, string | number> }} Result
 */

const WATCH_MS = 50
const MIB = 1024 * 1024

if (isMainThread) watch(Number(process.argv[2]))
else parentPort?.on('message', (/** @type {Job} */ job) => void answer(job))

/** @param {number} memoryMiB */
function watch(memoryMiB) {
  const thread = new Worker(new URL('./process.mjs', import.meta.url), {
    resourceLimits: { maxOldGenerationSizeMb: memoryMiB },
  })
  /** @param {object} message */
  const reply = (message) => process.send?.({ ...message, rssMiB: process.memoryUsage.rss() / MIB })
  const leave = () => process.kill(process.pid, 'SIGKILL')
  /** @param {object} message */
  const fail = (message) => process.send?.(message, leave)
  thread.on('message', reply)
  thread.on('error', (/** @type {any} */ error) =>
    fail(error?.code === 'ERR_WORKER_OUT_OF_MEMORY' ? { memory: true } : { crash: String(error?.message ?? error) }),
  )
  process.on('message', (job) => thread.postMessage(job))
  // whoever asked is gone
  process.on('disconnect', leave)
  // buffers do not count as heap, so the heap's own limit does not hold them
  const watching = setInterval(() => {
    if (process.memoryUsage.rss() <= memoryMiB * MIB) return
    clearInterval(watching)
    fail({ memory: true })
  }, WATCH_MS)
}

/** @param {Job} job */
async function answer(job) {
  try {
    parentPort?.postMessage({ result: await read(job) })
  } catch (error) {
    if (error instanceof Refusal) parentPort?.postMessage({ refusal: { problem: error.message, ...error.facts } })
    else parentPort?.postMessage({ failure: error instanceof Error ? error.message : String(error) })
  }
}

/** @param {Job} job @returns {Promise<Result>} */
async function read(job) {
  const { kind, limits } = job
  if (kind === 'html') return (await import('./html.mjs')).readHtml(job.text ?? '', limits)
  const bytes = job.bytes ?? (await readFile(job.file ?? ''))
  if (job.sha256 !== undefined && createHash('sha256').update(bytes).digest('hex') !== job.sha256) {
    throw new Refusal('changed while it was read', { hint: 'Try again.' })
  }
  if (kind === 'docx') return (await import('./docx.mjs')).readDocx(bytes, limits)
  return (await import('./pdf.mjs')).readPdf(bytes, limits)
}

/** The near side of the process that parses untrusted files: one at a time, each with a limit on time and memory. */
import { type ChildProcess, fork } from 'node:child_process'
import { ClaraError } from '../errors.ts'
import type { Heading, JsonValue, Page } from './document.ts'
import type { ReadLimits } from './options.ts'
import { type Input, tooLarge } from './source.ts'

/** What to read: the bytes, or a file and the hash that it must have. */
type IsolatedJob =
  | { readonly kind: 'pdf' | 'docx'; readonly bytes: Uint8Array }
  | { readonly kind: 'pdf' | 'docx'; readonly file: string; readonly sha256: string }
  | { readonly kind: 'html'; readonly text: string }

interface IsolatedDocument {
  readonly text: string
  readonly title?: string
  readonly headings: readonly Heading[]
  readonly pages?: readonly Page[]
  readonly metadata: Readonly<Record<string, JsonValue>>
}

interface Refusal {
  readonly problem: string
  readonly expected?: string
  readonly received?: string
  readonly hint?: string
}

/** What the process says: one of these. */
interface Reply {
  readonly result?: IsolatedDocument
  readonly refusal?: Refusal
  /** The parser threw. */
  readonly failure?: string
  /** The parsing thread died. */
  readonly crash?: string
  readonly memory?: true
  /** Memory that the process holds afterwards. */
  readonly rssMiB?: number
}

/** How long an idle process is kept for the next file. */
const IDLE_MS = 10_000

interface Parser {
  readonly child: ChildProcess
  readonly memoryMiB: number
}
let parser: Parser | undefined
let idle: NodeJS.Timeout | undefined
let last: Promise<unknown> = Promise.resolve()

/** Files up to this are handed over; the other process opens larger ones itself, so that there is one copy of them. */
const LARGEST_HANDED_OVER = 16 * 1024 * 1024

/**
 * The job of reading a PDF or Word file.
 * @throws ClaraError when it is larger than `documentBytes`.
 */
export async function jobFor(kind: 'pdf' | 'docx', input: Input, limits: ReadLimits): Promise<IsolatedJob> {
  const { file, name, stat } = input
  if (file === undefined || stat === undefined || stat.size <= LARGEST_HANDED_OVER) {
    return { kind, bytes: await input.bytes(limits.documentBytes) }
  }
  if (stat.size > limits.documentBytes) throw tooLarge(name, limits.documentBytes, stat.size)
  const { sha256 } = await input.finish()
  return { kind, file, sha256 }
}

/**
 * Reads a file in the other process, which is ended when it takes longer, or more memory, than it may.
 * @param name The file, quoted, for messages.
 * @throws ClaraError when it cannot be read; the signal's reason when it aborts.
 */
export function readIsolated(
  job: IsolatedJob,
  limits: ReadLimits,
  name: string,
  signal?: AbortSignal,
): Promise<IsolatedDocument> {
  const turn = last.then(() => readNow(job, limits, name, signal))
  last = turn.catch(() => {})
  return turn
}

async function readNow(
  job: IsolatedJob,
  limits: ReadLimits,
  name: string,
  signal?: AbortSignal,
): Promise<IsolatedDocument> {
  signal?.throwIfAborted()
  clearTimeout(idle)
  if (parser?.memoryMiB !== limits.memoryMiB) endParser()
  parser ??= startParser(limits.memoryMiB)
  const { child } = parser
  child.ref()
  child.channel?.ref()
  let reply: Reply
  try {
    reply = await ask(child, { ...job, limits }, limits, name, signal)
  } catch (error) {
    endParser()
    throw error
  }
  child.unref()
  child.channel?.unref()
  idle = setTimeout(endParser, IDLE_MS).unref()
  // what a large file leaves behind must not count against the next one
  const failed = reply.result === undefined && reply.refusal === undefined
  if (failed || (reply.rssMiB ?? 0) > limits.memoryMiB / 2) endParser()
  return documentFrom(reply, limits, name)
}

function documentFrom(reply: Reply, limits: ReadLimits, name: string): IsolatedDocument {
  if (reply.result) return reply.result
  if (reply.refusal) {
    const { problem, ...facts } = reply.refusal
    throw new ClaraError(`${name} ${problem}.`, facts)
  }
  if (reply.memory) {
    throw new ClaraError(`${name} takes too much memory to read.`, {
      expected: `at most ${limits.memoryMiB} MiB`,
      hint: 'Split it, or raise the limit if the file is to be trusted.',
    })
  }
  throw new ClaraError(`${name} cannot be read: its reader failed.`, {
    received: reply.failure ?? reply.crash ?? 'no answer',
    hint: 'The file may be damaged.',
  })
}

function startParser(memoryMiB: number): Parser {
  const child = fork(new URL('./isolated/process.mjs', import.meta.url), [String(memoryMiB)], {
    serialization: 'advanced',
    // parsers have no need to build code from strings, nor to know this process's environment
    execArgv: ['--disallow-code-generation-from-strings'],
    env: process.env.SystemRoot === undefined ? {} : { SystemRoot: process.env.SystemRoot },
    stdio: ['ignore', 'ignore', 'ignore', 'ipc'],
  })
  return { child, memoryMiB }
}

function endParser(): void {
  clearTimeout(idle)
  parser?.child.kill('SIGKILL')
  parser = undefined
}

function ask(
  child: ChildProcess,
  message: object,
  limits: ReadLimits,
  name: string,
  signal: AbortSignal | undefined,
): Promise<Reply> {
  return new Promise((resolve, reject) => {
    const settle = (act: () => void) => {
      clearTimeout(timer)
      child.off('message', answered).off('exit', exited).off('error', failed)
      signal?.removeEventListener('abort', aborted)
      act()
    }
    const answered = (reply: unknown) => settle(() => resolve(reply as Reply))
    const exited = (code: number | null, by: string | null) =>
      settle(() => resolve({ crash: `the process ended with ${by ?? `code ${code}`}` }))
    const failed = (cause: Error) =>
      settle(() =>
        reject(new ClaraError(`${name} cannot be read: no process starts.`, { received: cause.message, cause })),
      )
    const aborted = () => settle(() => reject(signal?.reason))
    const timer = setTimeout(
      () =>
        settle(() =>
          reject(
            new ClaraError(`${name} takes too long to read.`, {
              expected: `at most ${limits.seconds} seconds`,
              hint: 'Split it, or raise the limit if the file is to be trusted.',
            }),
          ),
        ),
      limits.seconds * 1000,
    )
    child.on('message', answered).on('exit', exited).on('error', failed)
    signal?.addEventListener('abort', aborted)
    child.send(message, (error) => {
      if (error) failed(error)
    })
  })
}

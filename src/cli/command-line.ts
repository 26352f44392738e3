import { ClaraError } from '../errors.ts'
import { parseArguments, UsageError } from './arguments.ts'
import { programHelp, verbHelp } from './help.ts'
import { nearest } from './nearest.ts'
import { type Environment, type OutputStream, printable, type StatusLine, statusLine, textStyle } from './terminal.ts'
import type { Outcome, Verb, VerbContext, VerbEntry, VerbTable } from './verb.ts'

/** What a run of the command line touches outside itself. */
export interface Surroundings {
  readonly verbs: VerbTable
  readonly version: string
  readonly stdout: OutputStream
  readonly stderr: OutputStream
  readonly environment: Environment
  /** Aborts when the user interrupts. */
  readonly signal: AbortSignal
}

/** Exit statuses, as help states them. */
export const exitStatus = { done: 0, failed: 1, usage: 2, nothing: 3, interrupted: 130 } as const

/**
 * Runs one command line to its end and tells the exit status. Errors are printed, never thrown.
 *
 * @param words The words after `clara`.
 */
export async function runCommandLine(words: readonly string[], surroundings: Surroundings): Promise<number> {
  const status = statusLine(surroundings.stderr)
  try {
    const outcome = await dispatch(words, surroundings, status)
    return surroundings.signal.aborted ? exitStatus.interrupted : exitStatus[outcome]
  } catch (error) {
    status.clear()
    if (surroundings.signal.aborted && isAbort(error, surroundings.signal)) {
      surroundings.stderr.write('Interrupted.\n')
      return exitStatus.interrupted
    }
    printError(error, surroundings)
    return error instanceof UsageError ? exitStatus.usage : exitStatus.failed
  } finally {
    status.clear()
  }
}

async function dispatch(words: readonly string[], surroundings: Surroundings, status: StatusLine): Promise<Outcome> {
  const [first, ...rest] = words
  if (first === 'version' || first === '--version') {
    await showVersion(rest, surroundings)
    return 'done'
  }
  if (first === undefined || first === 'help' || first === '--help' || first === '-h') {
    await showHelp(rest, surroundings)
    return 'done'
  }
  const verb = await findVerb(first, surroundings.verbs).load()
  // help needs no settings, and comes even where these are wrong
  const isHelp = rest.some((word) => word === '--help' || word === '-h')
  const { help, json, values } = parseArguments(
    first,
    verb,
    rest,
    isHelp ? undefined : await settingsOf(verb, surroundings),
  )
  if (help) {
    await showHelp([first], surroundings)
    return 'done'
  }
  const { context, reported, outcome } = openContext(json, surroundings, status)
  await verb.run(values, context)
  if (json && !reported() && !surroundings.signal.aborted) {
    throw new Error(`clara ${first} reported no result for --json`)
  }
  return outcome()
}

async function settingsOf(verb: Verb, { environment }: Surroundings) {
  const { readSettings, settingsFor } = await import('./settings.ts')
  return settingsFor(verb.options, await readSettings(environment))
}

function findVerb(name: string, verbs: VerbTable): VerbEntry {
  const entry = Object.hasOwn(verbs, name) ? verbs[name] : undefined
  if (entry !== undefined) return entry
  const guess = nearest(name, [...Object.keys(verbs), 'help', 'version'])
  throw new UsageError(`clara has no verb ${JSON.stringify(name)}.`, {
    hint: guess === undefined ? 'See clara --help.' : `Did you mean clara ${guess}?`,
  })
}

async function showHelp(words: readonly string[], { verbs, stdout, environment }: Surroundings): Promise<void> {
  const style = textStyle(stdout, environment)
  const [name] = words.filter((word) => word !== '--help' && word !== '-h')
  if (name === '--json') {
    const list = Object.entries(verbs).map(([verb, { summary }]) => ({ name: verb, summary }))
    stdout.write(`${JSON.stringify({ verbs: list })}\n`)
    return
  }
  const isBuiltIn = name === undefined || name === 'help' || name === 'version'
  const text = isBuiltIn ? programHelp(verbs, style) : verbHelp(name, await findVerb(name, verbs).load(), style)
  stdout.write(`${text}\n`)
}

async function showVersion(words: readonly string[], surroundings: Surroundings): Promise<void> {
  if (words.includes('--help') || words.includes('-h')) return showHelp([], surroundings)
  const [word] = words.filter((candidate) => candidate !== '--json')
  if (word !== undefined) throw new UsageError(`clara version does not know what to do with ${JSON.stringify(word)}.`)
  const { version, stdout } = surroundings
  stdout.write(words.includes('--json') ? `${JSON.stringify({ version })}\n` : `${version}\n`)
}

function openContext(
  json: boolean,
  { stdout, stderr, environment, signal }: Surroundings,
  status: StatusLine,
): { context: VerbContext; reported: () => boolean; outcome: () => Outcome } {
  let hasReported = false
  let outcome: Outcome = 'done'
  function write(stream: OutputStream, text: string): void {
    status.clear()
    stream.write(text)
  }
  const context: VerbContext = {
    json,
    style: textStyle(stdout, environment),
    interactive: stderr.isTTY === true,
    signal,
    write: (text) => {
      if (!json) write(stdout, text)
    },
    print: (line) => {
      if (!json) write(stdout, `${line}\n`)
    },
    note: (line) => write(stderr, `${line}\n`),
    status: (line) => status.show(line),
    end: (how) => {
      outcome = how
    },
    report: (result) => {
      if (hasReported) throw new Error('a verb reports its result once')
      hasReported = true
      if (json) write(stdout, `${JSON.stringify(result)}\n`)
    },
  }
  return { context, reported: () => hasReported, outcome: () => outcome }
}

function isAbort(error: unknown, signal: AbortSignal): boolean {
  return error === signal.reason || (error instanceof Error && error.name === 'AbortError')
}

/** Prints an error for the person at the keyboard; the stack only for faults of the program, and only with CLARA_DEBUG=1. */
export function printError(error: unknown, surroundings: Pick<Surroundings, 'stderr' | 'environment'>): void {
  const { stderr, environment } = surroundings
  const label = textStyle(stderr, environment).paint('red', 'clara:')
  if (error instanceof ClaraError) {
    stderr.write(`${label} ${printable(error.message)}\n`)
    return
  }
  const message = error instanceof Error ? error.message : String(error)
  const debug = environment.CLARA_DEBUG === '1'
  stderr.write(`${label} unexpected error: ${printable(message)}\n`)
  if (debug) stderr.write(`${printable((error instanceof Error && error.stack) || 'no stack')}\n`)
  else stderr.write('CLARA_DEBUG=1 shows where it happened.\n')
}

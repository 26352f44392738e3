import { readFileSync } from 'node:fs'
import { exitStatus, printError, runCommandLine, type Surroundings } from './command-line.ts'
import type { VerbTable } from './verb.ts'

/**
 * Runs a command line as this process: its streams, its signals, its exit status.
 *
 * @param words The words after the program's name.
 */
export async function runProgram(verbs: VerbTable, words: readonly string[]): Promise<void> {
  const interrupt = new AbortController()
  const surroundings: Surroundings = {
    verbs,
    version: packageVersion(),
    stdout: process.stdout,
    stderr: process.stderr,
    environment: process.env,
    signal: interrupt.signal,
  }
  // The first signal asks the verb to save and stop; the second does not wait for it.
  for (const name of ['SIGINT', 'SIGTERM'] as const) {
    process.on(name, () => {
      if (interrupt.signal.aborted) process.exit(exitStatus.interrupted)
      interrupt.abort()
    })
  }
  process.on('uncaughtException', (error) => {
    printError(error, surroundings)
    process.exit(exitStatus.failed)
  })
  // A reader that has seen enough, such as `head`, closes the pipe: no error of ours.
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code === 'EPIPE') process.exit(exitStatus.done)
    throw error
  })
  process.exitCode = await runCommandLine(words, surroundings)
}

/** The version in package.json, two folders up both from `src/cli` and from `dist/cli`. */
function packageVersion(): string {
  const manifest: unknown = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))
  const version =
    typeof manifest === 'object' && manifest !== null && 'version' in manifest ? manifest.version : undefined
  return typeof version === 'string' ? version : 'unknown'
}

import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

/** Runs a program of this folder in a process of its own, so that its memory is its own; it prints one JSON value. */
export async function runChild(program: string, argument: unknown): Promise<unknown> {
  const path = fileURLToPath(new URL(program, import.meta.url))
  const flags = ['--import', 'tsx', path, JSON.stringify(argument)]
  const { stdout } = await promisify(execFile)(process.execPath, flags, { maxBuffer: 1 << 26 })
  return JSON.parse(stdout)
}

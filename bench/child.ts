import { execFile } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { z } from 'zod'
import { ClaraError } from '../src/errors.ts'

const answerSchema = z.union([z.object({ figures: z.unknown() }), z.object({ problem: z.string() })])

/**
 * Runs a program of this folder in a process of its own, so that its memory is its own.
 * @throws ClaraError with the words of the child's own.
 */
export async function runChild(program: string, argument: unknown): Promise<unknown> {
  const path = fileURLToPath(new URL(program, import.meta.url))
  const flags = ['--import', 'tsx', path, JSON.stringify(argument)]
  const { stdout } = await promisify(execFile)(process.execPath, flags, { maxBuffer: 1 << 26 })
  const answer = answerSchema.parse(JSON.parse(stdout))
  if ('problem' in answer) throw new ClaraError(answer.problem)
  return answer.figures
}

/** What such a program does: takes its argument, and prints what it measured or what is wrong. */
export async function answerParent<Options>(measure: (options: Options) => Promise<unknown>): Promise<void> {
  const answer = await measure(JSON.parse(process.argv[2] ?? '')).then(
    (figures) => ({ figures }),
    (error) => {
      if (error instanceof ClaraError) return { problem: error.message }
      throw error
    },
  )
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}

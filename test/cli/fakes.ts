import { z } from 'zod'
import { runCommandLine, type Surroundings } from '../../src/cli/command-line.ts'
import type { Verb, VerbContext, VerbTable } from '../../src/cli/verb.ts'

/** A verb as a module would export it; what `run` does is the test's. */
export function fakeVerb(
  run: (values: Record<string, unknown>, context: VerbContext) => void | Promise<void> = () => undefined,
): Verb {
  return {
    summary: 'Find passages for a question',
    options: z.strictObject({
      question: z.string().describe('The question to answer'),
      documents: z.array(z.string()).default([]).describe('Text files to search'),
      topK: z.number().int().min(1).default(5).describe('How many passages to read'),
      similarity: z.enum(['flat', 'maxsim']).default('maxsim').describe('How memory is compared'),
      stream: z.boolean().default(true).describe('Wait for the whole answer'),
      verbose: z.boolean().optional().describe('Say more'),
      seed: z.number().optional().describe('Seed of the sampler'),
      stopWord: z
        .string()
        .transform((word) => word.toUpperCase())
        .optional()
        .describe('Where to stop'),
    }),
    positionals: ['question', 'documents'],
    async run(values, context) {
      await run(values, context)
    },
  }
}

/** What a fake verb's options are when only the question is given. */
export const defaults = { documents: [], topK: 5, similarity: 'maxsim', stream: true }

export function tableOf(verb: Verb): VerbTable {
  return {
    find: { summary: verb.summary, load: async () => verb },
    broken: {
      summary: 'A verb that cannot be loaded',
      load: () => Promise.reject(new Error('this verb was loaded without need')),
    },
  }
}

/** Runs a command line against fake streams and tells what was written. */
export async function runClara(
  words: readonly string[],
  verb: Verb = fakeVerb(),
  changes: Partial<Surroundings> & { readonly terminal?: boolean } = {},
): Promise<{ status: number; stdout: string; stderr: string }> {
  const { terminal = false, ...surroundings } = changes
  const written = { stdout: '', stderr: '' }
  const stream = (name: 'stdout' | 'stderr') => ({
    isTTY: terminal,
    columns: 60,
    write: (text: string) => {
      written[name] += text
    },
  })
  const status = await runCommandLine(words, {
    verbs: tableOf(verb),
    version: '1.2.3',
    stdout: stream('stdout'),
    stderr: stream('stderr'),
    environment: {},
    signal: new AbortController().signal,
    ...surroundings,
  })
  return { status, ...written }
}

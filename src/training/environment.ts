import { execFile } from 'node:child_process'
import { readFile } from 'node:fs/promises'
import { arch, availableParallelism, cpus, platform, totalmem } from 'node:os'
import { promisify } from 'node:util'
import { z } from 'zod'
import { runtimeVersion } from '../runtime/version.ts'

export const environmentSchema = z.object({
  node: z.string(),
  /** Version of ONNX Runtime. */
  runtime: z.string(),
  platform: z.string(),
  cpu: z.object({
    model: z.string(),
    cores: z.number(),
    /** Vector instructions, which decide in what order a product is summed. Empty where the system does not tell. */
    features: z.array(z.string()),
  }),
  /** Threads of the computation. */
  threads: z.number(),
  memoryMiB: z.number(),
  /** State of the code, where the working folder is a git repository. */
  git: z.object({ commit: z.string(), modified: z.boolean() }).optional(),
})

/**
 * What a run's numbers depend on beside its settings and data: the same settings give the same bits where node, runtime, cpu
 * features and threads are the same, and nearly the same numbers elsewhere.
 */
export type Environment = z.output<typeof environmentSchema>

/** The environment of this process. @param threads As configured; undefined: all cores. */
export async function environment(threads: number | undefined): Promise<Environment> {
  const git = await gitState()
  const [cpu] = cpus()
  return {
    node: process.version,
    runtime: runtimeVersion(),
    platform: `${platform()}-${arch()}`,
    cpu: { model: cpu?.model.trim() ?? 'unknown', cores: cpus().length, features: await cpuFeatures() },
    threads: threads ?? availableParallelism(),
    memoryMiB: Math.round(totalmem() / 2 ** 20),
    ...(git === undefined ? {} : { git }),
  }
}

/** Extensions with vector or matrix arithmetic, on x86 and on Arm. */
const arithmetic = /^(sse|ssse|avx|fma|f16c|amx|vnni|asimd|sve|sme|bf16|i8mm|fphp)/

async function cpuFeatures(): Promise<string[]> {
  try {
    const text = await readFile('/proc/cpuinfo', 'utf8')
    const flags = /^(?:flags|Features)\s*:\s*(.*)$/m.exec(text)?.[1] ?? ''
    return flags
      .split(/\s+/)
      .filter((flag) => arithmetic.test(flag))
      .sort()
  } catch {
    return []
  }
}

async function gitState(): Promise<Environment['git']> {
  const git = async (...words: string[]) => (await promisify(execFile)('git', words, { timeout: 10_000 })).stdout.trim()
  try {
    const commit = await git('rev-parse', 'HEAD')
    return { commit, modified: (await git('status', '--porcelain', '--untracked-files=no')) !== '' }
  } catch {
    // no git, or no repository here
    return undefined
  }
}

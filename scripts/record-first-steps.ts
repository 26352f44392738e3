/** `npx tsx scripts/record-first-steps.ts`: records the losses of a recipe's first updates, which test:full repeats. */
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { writeFileAtomic } from '../src/checkpoint/atomic.ts'
import { ClaraError } from '../src/errors.ts'
import { runFirstSteps } from './first-steps.ts'

const usage = `Usage: npx tsx scripts/record-first-steps.ts [RECIPE] [--steps N] [--threads N] [--output FILE]

Runs the first updates (50) of a recipe that starts from committed files (recipes/embedded-stage1-a.json) and writes their
losses with settings, data and environment to test/fixtures/first-steps.json. Run it from the repository's root.`

async function main(): Promise<void> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      help: { type: 'boolean', short: 'h' },
      steps: { type: 'string' },
      threads: { type: 'string' },
      output: { type: 'string' },
    },
  })
  if (values.help) {
    process.stdout.write(`${usage}\n`)
    return
  }
  const [recipe = 'recipes/embedded-stage1-a.json'] = positionals
  const recorded = await runFirstSteps(recipe, {
    steps: positive('--steps', values.steps) ?? 50,
    threads: positive('--threads', values.threads),
    onStep: (step, loss) => process.stderr.write(`step ${step}: ${loss}\n`),
  })
  const output = values.output ?? fileURLToPath(new URL('../test/fixtures/first-steps.json', import.meta.url))
  await writeFileAtomic(output, `${JSON.stringify(recorded, null, 2)}\n`)
  process.stdout.write(
    `${recorded.losses.length} losses of ${recipe} on ${recorded.environment.threads} threads: ${output}\n`,
  )
}

function positive(name: string, given: string | undefined): number | undefined {
  const value = given === undefined ? undefined : Number(given)
  if (value === undefined || (Number.isInteger(value) && value > 0)) return value
  throw new ClaraError(`${name} is wrong.`, { expected: 'a positive integer', received: String(given) })
}

try {
  await main()
} catch (error) {
  // wrong flags are a TypeError of parseArgs
  if (!(error instanceof ClaraError || error instanceof TypeError)) throw error
  process.stderr.write(`${error.message}\n\n${usage}\n`)
  process.exitCode = 1
}

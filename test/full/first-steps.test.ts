import { existsSync, readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { compareFirstSteps, firstStepsSchema, runFirstSteps } from '../../scripts/first-steps.ts'

const path = fileURLToPath(new URL('../fixtures/first-steps.json', import.meta.url))

test('the first updates of a committed run have the losses that were recorded', { timeout: 3_600_000 }, async ({
  skip,
}) => {
  skip(!existsSync(path), 'nothing has been recorded: npx tsx scripts/record-first-steps.ts')
  const recorded = firstStepsSchema.parse(JSON.parse(readFileSync(path, 'utf8')))
  const repeated = await runFirstSteps(recorded.recipe, {
    steps: recorded.losses.length,
    threads: Math.min(recorded.environment.threads, availableParallelism()),
  })
  const { exact, problems } = compareFirstSteps(recorded, repeated)
  expect(problems, exact ? 'every bit has to agree' : 'another processor, threads or runtime: to 1e-3').toEqual([])
})

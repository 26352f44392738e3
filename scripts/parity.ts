/** `npm run parity -- DIR [--json]`: compares this code with the numbers of the published one that a folder holds. */
import { ClaraError } from '../src/errors.ts'
import { failures, json, table } from './parity/report.ts'
import { compareFolder } from './parity/run.ts'

const usage = `Usage: npm run parity -- DIR [--json]

DIR holds base/, checkpoint/, cases.json and expected.safetensors, as the folders of test/fixtures/parity do.
Prints a row per quantity (largest error over largest value, tolerance); ends with status 1 when one is off.`

const words = process.argv.slice(2)
const folders = words.filter((word) => !word.startsWith('-'))
const [unknown] = words.filter((word) => word.startsWith('-') && word !== '--json' && word !== '--help')
const [folder] = folders

if (words.includes('--help')) process.stdout.write(`${usage}\n`)
else if (unknown !== undefined || folder === undefined || folders.length > 1) {
  const problem = unknown === undefined ? `One folder is needed; ${folders.length} were given.` : `Unknown: ${unknown}`
  process.stderr.write(`${problem}\n\n${usage}\n`)
  process.exitCode = 2
} else {
  try {
    const result = await compareFolder(folder)
    process.stdout.write(`${words.includes('--json') ? json(result) : table(result)}\n`)
    if (failures(result) > 0) process.exitCode = 1
  } catch (error) {
    process.stderr.write(
      `${error instanceof ClaraError ? error.message : String(error instanceof Error ? error.stack : error)}\n`,
    )
    process.exitCode = 1
  }
}

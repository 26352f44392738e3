/** `npm run bench -- [engine] [--json] [--threads N] [--repetitions N]`: measures, and prints a table or one JSON object. */
import { availableParallelism } from 'node:os'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { embeddedModel } from '../src/clara/model.ts'
import { ClaraError } from '../src/errors.ts'
import { measureEngine } from './engine/engine.ts'
import { fullSizes } from './engine/sizes.ts'
import { rowsOf, showTable, type Target } from './table.ts'

const groups = ['engine'] as const

const targets: readonly Target[] = [
  { figure: 'training.efficiency', atLeast: 0.8 },
  { figure: 'compressor.int8OverFp32', atLeast: 2 },
  { figure: 'compressor.minCosine', atLeast: 0.99 },
  { figure: 'decode.bandwidthShare', atLeast: 0.4 },
  { figure: 'memory.trainPeakMiB', atMost: 1500 },
]

const usage = `Usage: npm run bench -- [${groups.join('|')}] [--json] [--threads N] [--repetitions N]`

function readArguments() {
  const { values, positionals } = parsed()
  if (values.help) return undefined
  const unknown = positionals.find((name) => !groups.some((group) => group === name))
  if (unknown !== undefined) {
    throw new ClaraError(`There is no benchmark '${unknown}'.`, { expected: `one of ${groups.join(', ')}` })
  }
  return {
    json: values.json ?? false,
    threads: positive('--threads', values.threads, availableParallelism()),
    repetitions: positive('--repetitions', values.repetitions, 5),
  }
}

function parsed() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        help: { type: 'boolean', short: 'h' },
        json: { type: 'boolean' },
        threads: { type: 'string' },
        repetitions: { type: 'string' },
      },
    })
  } catch (cause) {
    throw new ClaraError(`The command line is wrong: ${(cause as Error).message}`, {
      hint: usage,
      cause,
    })
  }
}

function positive(name: string, given: string | undefined, byDefault: number): number {
  const value = given === undefined ? byDefault : Number(given)
  if (!Number.isInteger(value) || value < 1) {
    throw new ClaraError(`${name} is wrong.`, { expected: 'a positive integer', received: String(given) })
  }
  return value
}

async function main(): Promise<void> {
  const asked = readArguments()
  if (!asked) {
    process.stdout.write(`${usage}\n`)
    return
  }
  const { json, threads, repetitions } = asked
  const file = (path: string) => fileURLToPath(new URL(`../${path}`, import.meta.url))
  const options = {
    base: file('models/SmolLM2-135M-Instruct.Q4_1.gguf'),
    tokenizer: file('models'),
    model: embeddedModel(),
    passages: file('datasets/squad.dev.jsonl.gz'),
    threads,
    repetitions,
    sizes: fullSizes,
  }
  const figures = await measureEngine(options, (measuring) => process.stderr.write(`${measuring} ...\n`))
  process.stdout.write(`${json ? JSON.stringify(figures) : showTable(rowsOf(figures, targets))}\n`)
}

try {
  await main()
} catch (error) {
  if (!(error instanceof ClaraError)) throw error
  process.stderr.write(`${error.message}\n`)
  process.exitCode = 1
}

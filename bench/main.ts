/** `npm run bench -- [engine|weights|large|stages|store|ingest]`: measures, and prints a table or one JSON object. */
import { mkdtemp, rm } from 'node:fs/promises'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { embeddedModel } from '../src/clara/model.ts'
import { ClaraError } from '../src/errors.ts'
import { weightKinds } from '../src/model/weight-kinds.ts'
import { measureEngine } from './engine/engine.ts'
import { fullSizes } from './engine/sizes.ts'
import { measureIngest } from './ingest/ingest.ts'
import { fullIngestSizes } from './ingest/sizes.ts'
import { measureLarge } from './large/large.ts'
import { fullSizes as stagesSizes } from './stages/sizes.ts'
import { measureStages } from './stages/stages.ts'
import { fullStoreSizes } from './store/sizes.ts'
import { measureStore } from './store/store.ts'
import { rowsOf, showTable, type Target } from './table.ts'
import { measureWeights, weightsTable } from './weights/weights.ts'

const groups = ['engine', 'weights', 'large', 'stages', 'store', 'ingest'] as const
type Group = (typeof groups)[number]

const targets: readonly Target[] = [
  { figure: 'training.efficiency', atLeast: 0.8 },
  { figure: 'compressor.int8OverFp32', atLeast: 2 },
  { figure: 'compressor.minCosine', atLeast: 0.99 },
  { figure: 'decode.bandwidthShare', atLeast: 0.4 },
  { figure: 'memory.trainPeakMiB', atMost: 1500 },
  { figure: 'stages.stage2.overhead', atMost: 1.1 },
  { figure: 'stages.stage2.compressorRuns', atMost: 0 },
  { figure: 'store.recallAt10OfExact', atLeast: 0.95 },
  { figure: 'store.bruteForceOverSearch', atLeast: 20 },
  { figure: 'store.growth', atMost: 4 },
  { figure: 'store.bytesPerChunk', atMost: 0.3 },
  { figure: 'store.int8LossChange', atMost: 0.01 },
  { figure: 'ingest.overhead', atMost: 0.1 },
  { figure: 'ingest.peakRatio', atMost: 1.15 },
  { figure: 'ingest.secondOverFirst', atMost: 0.02 },
]

const usage = `Usage: npm run bench -- [${groups.join('|')}] [--json] [--threads N] [--repetitions N]
  store: [--without-growth] leaves out the store of a million passages, which takes half an hour
  large: --checkpoint FOLDER [--weights ${weightKinds.join('|')}] [--low-memory] [--cache FOLDER]`

function readArguments() {
  const { values, positionals } = parsed()
  if (values.help) return undefined
  const unknown = positionals.find((name) => !groups.some((group) => group === name))
  if (unknown !== undefined) {
    throw new ClaraError(`There is no benchmark '${unknown}'.`, { expected: `one of ${groups.join(', ')}` })
  }
  const weights = weightKinds.find((kind) => kind === (values.weights ?? 'int4'))
  if (!weights) {
    throw new ClaraError('--weights is wrong.', {
      expected: `one of ${weightKinds.join(', ')}`,
      received: String(values.weights),
    })
  }
  return {
    group: groups.find((group) => group === positionals[0]) ?? 'engine',
    checkpoint: values.checkpoint,
    weights,
    lowMemory: values['low-memory'] ?? false,
    growth: !(values['without-growth'] ?? false),
    cache: values.cache,
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
        checkpoint: { type: 'string' },
        weights: { type: 'string' },
        'low-memory': { type: 'boolean' },
        'without-growth': { type: 'boolean' },
        cache: { type: 'string' },
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
  const report = (measuring: string) => process.stderr.write(`${measuring} ...\n`)
  const { shown, figures } = await benchmarks[asked.group](asked, report)
  process.stdout.write(`${asked.json ? JSON.stringify(figures) : shown}\n`)
}

type Arguments = NonNullable<ReturnType<typeof readArguments>>
type Report = (measuring: string) => void
interface Measured {
  readonly figures: object
  readonly shown: string
}

const file = (path: string) => fileURLToPath(new URL(`../${path}`, import.meta.url))

/** Works in a temporary folder that is gone afterwards. */
async function inFolder<Result>(name: Group, use: (folder: string) => Promise<Result>): Promise<Result> {
  const folder = await mkdtemp(join(tmpdir(), `clara-${name}-`))
  try {
    return await use(folder)
  } finally {
    await rm(folder, { recursive: true, force: true })
  }
}

/** Questions with candidate passages, of all sources. */
const pools = (part: 'train' | 'dev') =>
  ['hotpotqa', 'nq', '2wiki', 'musique'].map((name) => file(`datasets/${name}.${part}.jsonl.gz`))

const benchmarks: Readonly<Record<Group, (asked: Arguments, report: Report) => Promise<Measured>>> = {
  async engine({ threads, repetitions }, report) {
    const options = {
      base: file('models/SmolLM2-135M-Instruct.Q4_1.gguf'),
      tokenizer: file('models'),
      model: embeddedModel(),
      passages: file('datasets/squad.dev.jsonl.gz'),
      threads,
      repetitions,
      sizes: fullSizes,
    }
    const figures = await measureEngine(options, report)
    return { figures, shown: showTable(rowsOf(figures, targets)) }
  },
  async weights({ threads, repetitions }, report) {
    return await inFolder('weights', async (work) => {
      const sizes = { passages: file('datasets/squad.dev.jsonl.gz'), documents: 64, newTokens: 64 }
      const figures = await measureWeights({ model: embeddedModel(), threads, repetitions, work, ...sizes }, report)
      return { figures, shown: weightsTable(figures) }
    })
  },
  async large({ checkpoint, weights, lowMemory, threads, cache }, report) {
    if (checkpoint === undefined) {
      throw new ClaraError('The benchmark needs a model.', {
        expected: '--checkpoint FOLDER',
        hint: 'npx tsx scripts/write-random-checkpoint.ts writes one of the published size.',
      })
    }
    const measure = async (folder: string) => {
      const options = { checkpoint, weights, lowMemory, threads, cache: folder, memories: 5, newTokens: 16 }
      const figures = await measureLarge(options, report)
      const { first, second, secondOverFirst } = figures
      return { figures, shown: showTable(rowsOf({ first, second, secondOverFirst }, largeTargets(lowMemory))) }
    }
    return await (cache === undefined ? inFolder('large', measure) : measure(cache))
  },
  async store({ threads, growth }, report) {
    return await inFolder('store', async (work) => {
      const options = {
        model: embeddedModel(),
        train: pools('train'),
        dev: pools('dev'),
        passages: file('datasets/squad.dev.jsonl.gz'),
        threads,
        work,
        sizes: fullStoreSizes,
        growth,
      }
      const figures = await measureStore(options, report)
      return { figures, shown: showTable(rowsOf(figures, targets)) }
    })
  },
  async ingest({ threads }, report) {
    return await inFolder('ingest', async (work) => {
      const options = { model: embeddedModel(), train: pools('train'), threads, work, sizes: fullIngestSizes }
      const figures = await measureIngest({ ...options, shape: [32, 576] }, report)
      return { figures, shown: showTable(rowsOf(figures, targets)) }
    })
  },
  async stages({ threads, repetitions }, report) {
    return await inFolder('stages', async (work) => {
      const options = {
        base: file('models/SmolLM2-135M-Instruct.Q4_1.gguf'),
        tokenizer: file('models'),
        pools: file('datasets/hotpotqa.dev.jsonl.gz'),
        passages: file('datasets/squad.dev.jsonl.gz'),
        threads,
        repetitions,
        sizes: stagesSizes,
        work,
      }
      const figures = await measureStages(options, report)
      return { figures, shown: showTable(rowsOf(figures, targets)) }
    })
  },
}

const largeTargets = (lowMemory: boolean): readonly Target[] => [
  ...['first', 'second'].map((start) => ({ figure: `${start}.peakMiB`, atMost: (lowMemory ? 3 : 8) * 1024 })),
  { figure: 'secondOverFirst', atMost: 0.25 },
]

try {
  await main()
} catch (error) {
  if (!(error instanceof ClaraError)) throw error
  process.stderr.write(`${error.message}\n`)
  process.exitCode = 1
}

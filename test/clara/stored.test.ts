import { mkdtemp, readdir, readFile, rm, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { mistral, writeRandomCheckpoint } from '../../scripts/write-random-checkpoint.ts'
import { Clara, type LoadOptions } from '../../src/clara/clara.ts'
import { openModel } from '../../src/clara/open.ts'
import { openInferenceModel } from '../../src/clara/stored-model.ts'
import { weightKinds } from '../../src/model/weight-kinds.ts'
import { packRun } from '../../src/training/stages/pack.ts'
import { runStage } from '../../src/training/stages/run.ts'
import { salient, type TinyData, tinyData } from '../training/stages/tiny-run.ts'

const shape = {
  ...mistral,
  layers: 2,
  hidden: 128,
  intermediate: 256,
  heads: 4,
  'key-value-heads': 2,
  vocabulary: 1000,
  rank: 4,
  'doc-max-length': 32,
  'shard-mib': 1,
}
const documents = ['The bridges were closed for nine days while the river rose.', 'Anna built a boat.']
const question = 'What was closed?'

let root: string
let data: TinyData
/** A published checkpoint of two random layers, and a model folder whose compressor looks both ways. */
let models: { random: string; salient: string }
beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'clara-stored-'))
  await writeRandomCheckpoint(join(root, 'random'), shape)
  data = await tinyData()
  const output = join(data.folder, 'run')
  await runStage({ config: data.config({ output, steps: 1, compressor: salient }) })
  await packRun({ runFolder: output, modelFolder: join(data.folder, 'model'), which: 'last' })
  models = { random: join(root, 'random', 'checkpoint'), salient: join(data.folder, 'model') }
})
afterAll(async () => {
  await rm(root, { recursive: true, force: true })
  await data[Symbol.asyncDispose]()
})

/** Everything that a model says to two documents and a question, numbers to the bit. */
async function use(clara: Clara) {
  const memories = await clara.compressDocuments(documents)
  const questions = await clara.compressQuestions([question])
  const answers = await clara.generateFromCompressedDocumentsAndQuestions([question], [memories], { maxNewTokens: 5 })
  return { memories: memories.map(({ tokens }) => tokens), questions: questions.map(({ tokens }) => tokens), answers }
}

async function loadAndUse(name: keyof typeof models, options: LoadOptions) {
  await using clara = await Clara.load(models[name], { threads: 1, cache: join(root, 'cache'), ...options })
  return { ...(await use(clara)), fingerprint: clara.model.fingerprint }
}

const known = new Map<string, ReturnType<typeof loadAndUse>>()
/** What the model says at fp32, each role in a session of its own. */
function inSessions(name: keyof typeof models): ReturnType<typeof loadAndUse> {
  const result = known.get(name) ?? loadAndUse(name, { weights: 'fp32' })
  known.set(name, result)
  return result
}

function cosines(found: readonly Float32Array[], expected: readonly Float32Array[]): number[] {
  return found.map((a, index) => {
    const b = expected[index] ?? new Float32Array()
    let [dot, left, right] = [0, 0, 0]
    a.forEach((x, at) => {
      const y = b[at] ?? 0
      dot += x * y
      left += x * x
      right += y * y
    })
    return dot / Math.sqrt(left * right)
  })
}

const least = { fp32: 0.999999, fp16: 0.99999, int8: 0.999, int4: 0.9 } as const

describe.each(['random', 'salient'] as const)('a model (%s) on a stack of layers', (name) => {
  test.each(weightKinds)(
    'with weights as %s resembles fp32, and layer by layer it is the same to the bit',
    async (weights) => {
      const expected = await inSessions(name)
      const layerwise = await loadAndUse(name, { weights, lowMemory: true })
      const store = { kind: weights, lowMemory: true, folder: join(root, 'cache') }
      await using whole = await Clara.open(await openInferenceModel(models[name], {}, store), { weights, threads: 1 })
      expect(await use(whole)).toEqual({
        memories: layerwise.memories,
        questions: layerwise.questions,
        answers: layerwise.answers,
      })
      expect(layerwise.fingerprint).toBe(expected.fingerprint)
      for (const cosine of cosines(
        [...layerwise.memories, ...layerwise.questions],
        [...expected.memories, ...expected.questions],
      )) {
        expect(cosine).toBeGreaterThan(least[weights])
        expect(cosine < 1 || weights === 'fp32').toBe(true)
      }
      if (weights === 'fp32' || weights === 'fp16') expect(layerwise.answers).toEqual(expected.answers)
    },
  )

  test('is the same when it was in memory before', async () => {
    await using clara = await Clara.open(await openModel(models[name]), { weights: 'int4', threads: 1 })
    const { fingerprint: _, ...loaded } = await loadAndUse(name, { weights: 'int4' })
    expect(await use(clara)).toEqual(loaded)
  })
})

describe('files of quantised weights', () => {
  const cache = () => join(root, 'own-cache')
  const load = async (notices: string[]) => {
    const options = { weights: 'int4', threads: 1, cache: cache() } as const
    await using clara = await Clara.load(models.random, { ...options, onNotice: (text) => notices.push(text) })
    return await use(clara)
  }

  test('are written at the first start, read at the second, and made again when the base or the adapters change', async () => {
    const notices: string[] = []
    const first = await load(notices)
    expect(notices).toEqual([
      expect.stringMatching(/base.*layers-int4/),
      expect.stringMatching(/checkpoint.*tables-int4/),
    ])
    expect((await readdir(cache())).length).toBe(2)
    expect(await load(notices)).toEqual(first)
    expect(notices.length).toBe(2)

    const base = join(root, 'random', 'base')
    const [shard = ''] = (await readdir(base)).filter((file) => file.endsWith('.safetensors'))
    await utimes(join(base, shard), new Date(), new Date(1e12))
    expect(await load(notices)).toEqual(first)
    expect(notices[2]).toMatch(/layers-int4.*again: the model it was made from has changed/)

    const config = join(models.random, 'config.json')
    await writeFile(config, `${await readFile(config, 'utf8')}\n`)
    expect(await load(notices)).toEqual(first)
    expect(notices.slice(3)).toEqual([expect.stringMatching(/tables-int4.*has changed/)])
    expect((await readdir(cache())).length).toBe(2)
  })

  test('that another program cut short are made again', async () => {
    const notices: string[] = []
    const first = await load(notices)
    for (const file of await readdir(cache())) {
      const bytes = await readFile(join(cache(), file))
      await writeFile(join(cache(), file), bytes.subarray(0, bytes.length / 2))
    }
    expect(await load(notices)).toEqual(first)
    expect(notices.length).toBe(2)
    expect(notices.every((notice) => notice.includes('again'))).toBe(true)
  })

  test('other weights than those it was opened with are refused', async () => {
    const store = { kind: 'int4', lowMemory: false, folder: cache() } as const
    const model = await openInferenceModel(models.random, {}, store)
    await expect(Clara.open(model, { weights: 'fp16', threads: 1 })).rejects.toThrow(/opened with weights as int4/)
  })
})

import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { inferenceRole } from '../../src/clara/inference.ts'
import { embeddingTable } from '../../src/clara/network.ts'
import { createRandom } from '../../src/data/random.ts'
import { float32 } from '../../src/graph/dtype.ts'
import { openCachedModel } from '../../src/model/cached.ts'
import type { GenerationPrompt, LanguageModel } from '../../src/model/generate.ts'
import { gather } from '../../src/ops/indexing.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'
import { tinyModel } from '../clara/tiny.ts'

const PAD = 1
let runtime: Runtime
let model: LanguageModel
let vocabulary: number
let hidden: number

beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
  const { base, options } = await tinyModel(runtime)
  vocabulary = base.vocabulary
  hidden = base.config.hidden_size
  const layers = base.config.num_hidden_layers
  const { parameters: adapters, lora: size } = options
  const role = await inferenceRole({
    runtime,
    base,
    adapters,
    role: 'decoder_adapter',
    size,
    layers,
    kind: 'fp32',
    head: true,
  })
  const maxPositions = 150
  model = await openCachedModel({
    runtime,
    config: base.config,
    maxPositions,
    padId: PAD,
    weights: role.weights,
    parts: (graph) => {
      const declared = role.declare(graph, maxPositions)
      return {
        decoder: declared.decoder,
        head: declared.head,
        embed: (ids) => gather(embeddingTable(declared.base), ids),
      }
    },
  })
})
afterAll(async () => {
  await model.close()
  await runtime.close()
})

const random = createRandom(5)
const tokens = (count: number) => Array.from({ length: count }, () => 3 + random.int(vocabulary - 3))

/** Logits of the token behind each prompt, each read alone from the start. */
async function fromScratch(prompts: readonly GenerationPrompt[], memory?: Parameters<LanguageModel['start']>[1]) {
  const all: Float32Array[] = []
  for (const prompt of prompts) {
    await using continuation = await model.start([prompt], memory)
    all.push(...continuation.logits)
  }
  return all
}

function expectEqual(actual: readonly Float32Array[], expected: readonly Float32Array[]) {
  expect(actual).toHaveLength(expected.length)
  expected.forEach((row, index) => {
    expect(row.length).toBe(vocabulary)
    const largest = row.reduce(
      (most, logit, token) => Math.max(most, Math.abs(logit - (actual[index]?.[token] ?? Number.NaN))),
      0,
    )
    expect(largest).toBeLessThan(1e-4)
  })
}

describe('a continuation', () => {
  test('of prompts of unequal length has at every step the logits of each text read alone and whole', async () => {
    const texts = [tokens(9), tokens(2), tokens(17)]
    await using continuation = await model.start(texts.map((ids) => ({ ids })))
    for (let step = 0; ; step++) {
      expectEqual(continuation.logits, await fromScratch(texts.map((ids) => ({ ids }))))
      if (step === 6) break
      const next = tokens(3)
      next.forEach((token, row) => void texts[row]?.push(token))
      await continuation.append(next)
    }
  })

  test('goes on when the cache is full, up to the longest sequence', async () => {
    const texts = [tokens(5), tokens(20)]
    await using continuation = await model.start(texts.map((ids) => ({ ids })))
    while ((texts[1]?.length ?? 0) < model.maxPositions) {
      const next = tokens(2)
      next.forEach((token, row) => void texts[row]?.push(token))
      await continuation.append(next)
      // the cache has 84 positions at first, then 148
      if ([83, 84, 85, 86, 147, 148, 149, 150].includes(texts[1]?.length ?? 0)) {
        expectEqual(continuation.logits, await fromScratch(texts.map((ids) => ({ ids }))))
      }
    }
  })

  test('reads memory in the place of tokens, and keeps it', async () => {
    const memory = float32(
      Float32Array.from({ length: 3 * hidden }, () => 0.3 * random.normal()),
      [3, hidden],
    )
    const [long, short] = [tokens(10), tokens(6)]
    const prompts = [
      { ids: long, memoryRows: long.map((_, at) => (at === 3 ? 2 : at === 4 ? 0 : -1)) },
      { ids: short, memoryRows: short.map((_, at) => (at === 1 ? 1 : -1)) },
    ]
    await using continuation = await model.start(prompts, memory)
    expectEqual(continuation.logits, await fromScratch(prompts, memory))
    const next = tokens(2)
    await continuation.append(next)
    const longer = prompts.map(({ ids, memoryRows }, row) => ({
      ids: [...ids, next[row] ?? 0],
      memoryRows: [...memoryRows, -1],
    }))
    expectEqual(continuation.logits, await fromScratch(longer, memory))
    // what stands in those places matters, and the ids below it do not
    const [plain] = await fromScratch([{ ids: long }], memory)
    const [covered] = await fromScratch([prompts[0] as GenerationPrompt], memory)
    expect(Math.max(...(plain ?? []).map((logit, token) => Math.abs(logit - (covered?.[token] ?? 0))))).toBeGreaterThan(
      1e-2,
    )
    const otherId = { ...prompts[0], ids: long.map((id, at) => (at === 3 ? 5 : id)) } as GenerationPrompt
    expect((await fromScratch([otherId], memory))[0]).toEqual(covered)
  })
})

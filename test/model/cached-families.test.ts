import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { BaseModel } from '../../src/clara/base.ts'
import { inferenceRole } from '../../src/clara/inference.ts'
import { embeddingTable } from '../../src/clara/network.ts'
import { createRandom } from '../../src/data/random.ts'
import { openCachedModel } from '../../src/model/cached.ts'
import { gather } from '../../src/ops/indexing.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'
import { families, randomBase } from './families.ts'
import { plainStates } from './plain-decoder.ts'

const VOCABULARY = 20
let runtime: Runtime
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
})
afterAll(() => runtime.close())

async function open(base: BaseModel) {
  const layers = base.config.num_hidden_layers
  const size = { rank: 1, alpha: 1 }
  const adapters = new Map()
  const role = await inferenceRole({ runtime, base, adapters, role: undefined, size, layers, kind: 'fp32', head: true })
  const maxPositions = 64
  return openCachedModel({
    runtime,
    config: base.config,
    maxPositions,
    padId: 0,
    weights: role.weights,
    parts: (graph) => {
      const { base: declared, decoder, head } = role.declare(graph, maxPositions)
      return { decoder, head, embed: (ids) => gather(embeddingTable(declared), ids) }
    },
  })
}

/** Logits behind a text in plain arithmetic. */
function plainLogits(base: BaseModel, ids: readonly number[]): number[] {
  const { hidden_size: width, tie_word_embeddings: tied } = base.config
  const embedding = base.weights.get('model.embed_tokens.weight')?.data as Float32Array
  const head = tied ? embedding : (base.weights.get('lm_head.weight')?.data as Float32Array)
  const rows = Float32Array.from(ids.flatMap((id) => [...embedding.subarray(id * width, (id + 1) * width)]))
  const causal = Float32Array.from({ length: ids.length ** 2 }, (_, at) =>
    at % ids.length <= Math.floor(at / ids.length) ? 0 : -1e9,
  )
  const states = plainStates(base, rows, [...ids.keys()], causal)
  const last = states.slice(-width)
  return Array.from({ length: VOCABULARY }, (_, token) =>
    last.reduce((sum, x, at) => sum + x * (head[token * width + at] ?? 0), 0),
  )
}

describe.each(Object.entries(families))('a continuation by %s', (_, config) => {
  test('has the logits of plain arithmetic on the whole text, at every step', async () => {
    const base = await randomBase(config, { baseVocabulary: VOCABULARY, vocabulary: VOCABULARY })
    await using model = await open(base)
    const random = createRandom(4)
    const tokens = (count: number) => Array.from({ length: count }, () => random.int(VOCABULARY))
    // beyond every window; and 40 positions are more than the first length of longrope
    for (const { lengths, steps } of [
      { lengths: [9, 3], steps: 3 },
      { lengths: [40], steps: 1 },
    ]) {
      const texts = lengths.map(tokens)
      await using continuation = await model.start(texts.map((ids) => ({ ids })))
      for (let step = 0; ; step++) {
        texts.forEach((ids, row) => {
          const expected = plainLogits(base, ids)
          expected.forEach((logit, token) => {
            expect(Math.abs(logit - (continuation.logits[row]?.[token] ?? Number.NaN))).toBeLessThan(5e-4)
          })
        })
        if (step === steps) break
        const next = tokens(texts.length)
        next.forEach((token, row) => void texts[row]?.push(token))
        await continuation.append(next)
      }
    }
  })
})

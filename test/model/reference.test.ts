import { readFileSync } from 'node:fs'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { openWeights } from '../../src/checkpoint/weights.ts'
import { type BaseModel, loadBase } from '../../src/clara/base.ts'
import { inferenceRole, type RoleKind } from '../../src/clara/inference.ts'
import { embeddingTable } from '../../src/clara/network.ts'
import { openCachedModel } from '../../src/model/cached.ts'
import { generate, type LanguageModel } from '../../src/model/generate.ts'
import { gather } from '../../src/ops/indexing.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'

// Values of the base model computed by another program from the same file.
const reference: {
  generate: { prompt_ids: number[]; last_logits_top8: [number, number][]; greedy_ids: number[] }[]
} = JSON.parse(readFileSync(new URL('../fixtures/reference.json', import.meta.url), 'utf8'))

const vocabulary = 49152
const padId = 2
let runtime: Runtime
let base: BaseModel

beforeAll(async () => {
  runtime = await openRuntime()
  await using source = await openWeights('models/SmolLM2-135M-Instruct.Q4_1.gguf')
  base = await loadBase(source, { baseVocabulary: vocabulary, vocabulary })
})
afterAll(() => runtime.close())

async function open(kind: RoleKind): Promise<LanguageModel> {
  const layers = base.config.num_hidden_layers
  const size = { rank: 1, alpha: 1 }
  const role = await inferenceRole({
    runtime,
    base,
    adapters: new Map(),
    role: undefined,
    size,
    layers,
    kind,
    head: true,
  })
  const maxPositions = 512
  return openCachedModel({
    runtime,
    config: base.config,
    maxPositions,
    padId,
    weights: role.weights,
    parts: (graph) => {
      const { base: declared, decoder, head } = role.declare(graph, maxPositions)
      return { decoder, head, embed: (ids) => gather(embeddingTable(declared), ids) }
    },
  })
}

it('meets the reference logits and greedy tokens at fp32, alone and in a batch of unequal lengths', async () => {
  await using model = await open('fp32')
  const options = { maxNewTokens: 64, stopIds: [2], padId }
  for (const { prompt_ids, last_logits_top8, greedy_ids } of reference.generate) {
    await using continuation = await model.start([{ ids: prompt_ids }])
    for (const [token, logit] of last_logits_top8) expect(continuation.logits[0]?.[token]).toBeCloseTo(logit, 2)
    expect(
      await generate(model, [{ ids: prompt_ids }], undefined, { ...options, maxNewTokens: greedy_ids.length }),
    ).toEqual([greedy_ids])
  }
  const together = await generate(
    model,
    reference.generate.map(({ prompt_ids }) => ({ ids: prompt_ids })),
    undefined,
    { ...options, maxNewTokens: Math.max(...reference.generate.map(({ greedy_ids }) => greedy_ids.length)) },
  )
  reference.generate.forEach(({ greedy_ids }, row) => {
    expect(together[row]?.slice(0, greedy_ids.length)).toEqual(greedy_ids)
  })
})

/** Kullback-Leibler divergence in nats of the distribution of `b` from that of `a`. */
function divergence(a: Float32Array, b: Float32Array): number {
  const logs = (logits: Float32Array) => {
    const largest = Math.max(...logits)
    const total = Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - largest), 0))
    return Array.from(logits, (logit) => logit - largest - total)
  }
  const [left, right] = [logs(a), logs(b)]
  return left.reduce((sum, value, token) => sum + Math.exp(value) * (value - (right[token] ?? 0)), 0)
}

it('predicts nearly the same distribution with int8 weights', async () => {
  await using exact = await open('fp32')
  await using rounded = await open('int8')
  for (const { prompt_ids } of reference.generate) {
    await using before = await exact.start([{ ids: prompt_ids }])
    await using after = await rounded.start([{ ids: prompt_ids }])
    const nats = divergence(before.logits[0] as Float32Array, after.logits[0] as Float32Array)
    // rounding changes something, or int8 was not used
    expect(nats).toBeGreaterThan(1e-7)
    // rounding the weights alone gives up to 0.006; that of the activations, block by block, gives the rest
    expect(nats).toBeLessThan(0.05)
  }
})

import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { EncodedDocument } from '../../src/clara/batch.ts'
import { openEncoder } from '../../src/clara/encoder.ts'
import { inferenceRole, type RoleKind } from '../../src/clara/inference.ts'
import { embeddingTable } from '../../src/clara/network.ts'
import { float32, type HostTensor } from '../../src/graph/dtype.ts'
import type { Role } from '../../src/lora/adapters.ts'
import { openCachedModel } from '../../src/model/cached.ts'
import { gather } from '../../src/ops/indexing.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'
import { answerSample, encodeText } from '../../src/training/stages/samples.ts'
import { openStage1Evaluation } from '../../src/training/stages/stage1.ts'
import { families } from '../model/families.ts'
import { type TinyModel, tinyModel, tinyTexts } from './tiny.ts'

let runtime: Runtime
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
})
afterAll(() => runtime.close())

function prepare({ base, options }: TinyModel, role: Role, kind: RoleKind) {
  const { parameters: adapters, lora: size, pooling } = options
  const layers = role === 'encoder_adapter' ? (pooling.config.compressorLayers ?? 3) : 3
  return inferenceRole({ runtime, base, adapters, role, size, layers, kind, head: role === 'decoder_adapter' })
}

/** Memory and the logits of the first answer token, through the parts that answer questions. */
async function inferred(
  model: TinyModel,
  documents: readonly EncodedDocument[],
  promptIds: readonly number[],
  kind: RoleKind,
) {
  const { base, options, rate } = model
  const role = await prepare(model, 'encoder_adapter', kind)
  await using encoder = await openEncoder({ ...options, role, pooling: { ...options.pooling, rate } })
  const memories = (await encoder.encode(documents)).map(({ tokens }) => tokens)
  const generator = await prepare(model, 'decoder_adapter', kind)
  await using language = await openCachedModel({
    runtime,
    config: base.config,
    maxPositions: 256,
    padId: options.padId,
    weights: generator.weights,
    parts: (graph) => {
      const declared = generator.declare(graph, 256)
      return {
        decoder: declared.decoder,
        head: declared.head,
        embed: (ids) => gather(embeddingTable(declared.base), ids),
      }
    },
  })
  const joined = Float32Array.from(memories.flatMap((tokens) => [...tokens]))
  const width = base.config.hidden_size
  let next = 0
  const first = options.firstMemoryToken
  const memoryRows = promptIds.map((id) => (id >= first && id < first + options.memoryTokens ? next++ : -1))
  expect(next).toBe(joined.length / width)
  await using continuation = await language.start(
    [{ ids: promptIds, memoryRows }],
    float32(joined, [joined.length / width, width]),
  )
  return { memory: joined, logits: continuation.logits[0]?.slice() as Float32Array }
}

function floats(tensor: HostTensor | undefined): Float32Array {
  if (!(tensor?.data instanceof Float32Array)) throw new TypeError('no float32 output')
  return tensor.data
}

function cosine(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let [dot, left, right] = [0, 0, 0]
  for (let at = 0; at < a.length; at++) {
    const [x, y] = [a[at] ?? 0, b[at] ?? 0]
    dot += x * y
    left += x * x
    right += y * y
  }
  return dot / Math.sqrt(left * right)
}

const largest = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Array.from(a).reduce((most, x, at) => Math.max(most, Math.abs(x - (b[at] ?? Number.NaN))), 0)

describe.each([
  { name: 'tokens', settings: { compressor: { memory: 'tokens' }, differentMemTokens: true } },
  { name: 'one token repeated', settings: { compressor: { memory: 'tokens' } } },
  {
    name: 'salient',
    settings: {
      compressor: {
        memory: 'salient',
        compressorLayers: 2,
        attention: 'bidirectional',
        memoryNorm: true,
        proportional: true,
        similarity: 'maxsim',
      },
    },
  },
  ...(
    [
      'llama with every bias',
      'qwen3 with biases, wide heads and a window in its middle layer',
      'phi3 with a window',
    ] as const
  ).map((name) => ({
    name,
    // blocks of int8 divide heads of 40
    settings: { config: { ...families[name], ...(name.startsWith('qwen3') ? { head_dim: 40 } : {}) } },
  })),
] as const)('compressor and generator of inference ($name)', ({ settings }) => {
  test('compute what the graph of training computes, exactly at fp32 and nearly at int8', async () => {
    const model = await tinyModel(runtime, settings)
    const { options, samples, rate } = model
    const documents = tinyTexts.slice(0, 2).map((text) => encodeText(text, samples))
    const { row } = answerSample(documents, [{ question: 'What was closed?', answer: 'The bridges.' }], samples, 0)
    const evaluation = await openStage1Evaluation(options)
    const expected = await evaluation.outputs({ documents, rows: [row], rate })
    await evaluation.close()
    const [label] = row.labels
    const promptIds = row.ids.slice(0, (label?.position ?? 0) + 1)
    const logits = floats(expected['logits']).subarray(0, model.base.vocabulary)
    const memory = floats(expected['memory'])

    const exact = await inferred(model, documents, promptIds, 'fp32')
    expect(exact.memory.length).toBe(memory.length)
    expect(largest(exact.memory, memory)).toBeLessThan(1e-5)
    expect(largest(exact.logits, logits)).toBeLessThan(1e-4)

    const rounded = await inferred(model, documents, promptIds, 'int8')
    expect(cosine(rounded.memory, memory)).toBeGreaterThan(0.999)
    expect(cosine(rounded.logits, logits)).toBeGreaterThan(0.999)
    // rounding changes something, or int8 was not used
    expect(largest(rounded.logits, logits)).toBeGreaterThan(1e-5)

    // and the adapters are there: without them all is different
    const parameters = new Map([...options.parameters].filter(([name]) => !name.includes('lora_')))
    const bare = await inferred({ ...model, options: { ...options, parameters } }, documents, promptIds, 'int8')
    expect(cosine(bare.logits, logits)).toBeLessThan(0.99)
  })
})

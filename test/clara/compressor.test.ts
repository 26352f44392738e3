import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { compressorBatch, type EncodedDocument, type Feeds } from '../../src/clara/batch.ts'
import { memoryParameters, REASONER_SALIENT, SALIENT } from '../../src/clara/compressor.ts'
import type { CompressorConfig } from '../../src/clara/config.ts'
import { declareBase, declareRole, EMBEDDING, embeddingTable } from '../../src/clara/network.ts'
import { encodeDocument } from '../../src/clara/prompts.ts'
import { createRandom } from '../../src/data/random.ts'
import { float32, type HostTensor } from '../../src/graph/dtype.ts'
import { addInput, addOutput, createGraph } from '../../src/graph/graph.ts'
import type { Role } from '../../src/lora/adapters.ts'
import { decode } from '../../src/model/decoder.ts'
import { gather } from '../../src/ops/indexing.ts'
import { reshape } from '../../src/ops/layout.ts'
import { encodeGraph } from '../../src/ops/table.ts'
import { openRuntime, type Runtime } from '../../src/runtime/runtime.ts'
import { stage1Graph } from '../../src/training/stages/graph.ts'
import { answerSample, encodeText } from '../../src/training/stages/samples.ts'
import { graphOptions, openStage1Evaluation, stageFeeds } from '../../src/training/stages/stage1.ts'
import { type TinyModel, type TinyOptions, tinyModel, tinyTexts } from './tiny.ts'

let runtime: Runtime
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
})
afterAll(() => runtime.close())

const proportional = { proportional: true, similarity: 'maxsim' } as const

/** Memory of documents by the compressor, [memories, hidden_size]. */
async function memoryOf({ options, samples, rate }: TinyModel, documents: readonly EncodedDocument[]) {
  const [first] = documents
  if (!first) throw new RangeError('no documents')
  // the evaluation graph wants a prompt too: one that reads the first document
  const { row } = answerSample([first], [{ question: 'Who?', answer: 'No one.' }], samples, 0)
  const evaluation = await openStage1Evaluation(options)
  const { memory } = await evaluation.outputs({ documents, rows: [row], rate })
  await evaluation.close()
  return memory?.data as Float32Array
}

/** States after the compressor's layers and the final normalisation, [documents * length, hidden_size]. */
async function hiddenStates({ options, base }: TinyModel, feeds: Feeds, layers: number): Promise<Float32Array> {
  const graph = createGraph('hidden')
  const declared = declareBase(graph, base.config, base.vocabulary, 64)
  const { decoder, parameters } = declareRole(declared, 'encoder_adapter', { size: options.lora, layers })
  const [batch, length] = ['batch', 'length']
  const embedded = gather(embeddingTable(declared), addInput(graph, 'ids', 'int64', [batch, length]))
  const positions = addInput(graph, 'positions', 'int64', [batch, length])
  const attentionBias = addInput(graph, 'bias', 'float32', [batch, 1, 1, length, length])
  const at = { batch, length, positions, attentionBias }
  addOutput(graph, 'hidden', decode(decoder, reshape(embedded, [-1, base.config.hidden_size]), at, layers))
  const session = await runtime.open(encodeGraph(graph), base.weights)
  const values = [...parameters.keys()].map((name) => [name, options.parameters.get(name) as HostTensor])
  const results = await session.run({ ...feeds, ...Object.fromEntries(values) })
  await session.close()
  return results['hidden']?.data as Float32Array
}

const normed = (row: number[], norm: number) => {
  const length = Math.sqrt(row.reduce((sum, x) => sum + x * x, 0))
  return row.map((x) => (x / length) * norm)
}

/** The memory that the design describes, in float64, from the states and embeddings of the batch's positions. */
function expectedMemory(model: TinyModel, documents: readonly EncodedDocument[], hidden: Float32Array): number[] {
  const { options, base, rate } = model
  const { config, idf, fixedCount } = options.pooling
  const width = base.config.hidden_size
  const table = base.weights.get(EMBEDDING)?.data as Float32Array
  const rowsOf = (data: Float32Array, row: number) => Array.from(data.subarray(row * width, (row + 1) * width))
  const learned = (name: string) => Array.from((options.parameters.get(name)?.data as Float32Array | undefined) ?? [])
  const [alpha, beta] = [learned('salient.alpha')[0] ?? 0, learned('salient.beta')[0] ?? 0]
  const weight = learned('salient.weight')
  const padded = Math.max(...documents.map(({ ids }) => ids.length))
  return documents.flatMap((document, row) => {
    const first = row * padded + padded - document.ids.length
    const [from, to] = document.text
    const places = Array.from({ length: to - from }, (_, at) => from + at)
    const windows = config.proportional
      ? Array.from({ length: Math.ceil(places.length / rate) }, (_, at) => places.slice(at * rate, (at + 1) * rate))
      : Array.from({ length: fixedCount }, (_, at) =>
          places.slice(
            Math.floor((at * places.length) / fixedCount),
            Math.floor(((at + 1) * places.length) / fixedCount),
          ),
        )
    return windows.flatMap((window) => {
      const states = window.map((place) => rowsOf(hidden, first + place))
      const ids = window.map((place) => document.ids[place] ?? 0)
      const scores = states.map((state, at) =>
        config.memory === 'mean'
          ? 0
          : beta * (idf?.[ids[at] ?? 0] ?? 0) + state.reduce((sum, x, index) => sum + x * (weight[index] ?? 0), 0),
      )
      const exponentials = scores.map((score) => Math.exp(score - Math.max(...scores)))
      const total = exponentials.reduce((sum, x) => sum + x, 0)
      const values =
        config.memory === 'mean'
          ? states
          : states.map((state, at) => {
              const scaled = normed(state, base.embeddingNorm)
              return rowsOf(table, ids[at] ?? 0).map((x, index) => x + alpha * (scaled[index] ?? 0))
            })
      const pooled = Array.from({ length: width }, (_, index) =>
        values.reduce((sum, value, at) => sum + ((exponentials[at] ?? 0) / total) * (value[index] ?? 0), 0),
      )
      return config.memoryNorm ? normed(pooled, base.embeddingNorm) : pooled
    })
  })
}

function largestDifference(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  expect(actual.length).toBe(expected.length)
  const largest = Array.from(expected).reduce((most, x) => Math.max(most, Math.abs(x)), 0)
  return (
    Array.from(expected).reduce((most, x, at) => Math.max(most, Math.abs(x - (actual[at] ?? Number.NaN))), 0) / largest
  )
}

describe('pooled memory', () => {
  const cases: { name: string; settings: TinyOptions }[] = [
    { name: 'the mean of fixed windows', settings: { compressor: { memory: 'mean' } } },
    { name: 'the mean of proportional windows', settings: { compressor: { memory: 'mean', ...proportional } } },
    {
      name: 'the mean over two layers, both ways, at the norm of embeddings',
      settings: {
        compressor: {
          memory: 'mean',
          compressorLayers: 2,
          attention: 'bidirectional',
          memoryNorm: true,
          ...proportional,
        },
      },
    },
    {
      name: 'salient as training begins',
      settings: { fresh: true, compressor: { memory: 'salient', ...proportional } },
    },
    { name: 'salient with learned weights', settings: { compressor: { memory: 'salient', ...proportional } } },
    {
      name: 'salient as the embedded model has it',
      settings: {
        architecture: 'llama-3',
        compressor: {
          memory: 'salient',
          compressorLayers: 1,
          attention: 'bidirectional',
          memoryNorm: true,
          ...proportional,
        },
      },
    },
    { name: 'salient over fixed windows', settings: { compressor: { memory: 'salient' } } },
  ]

  test.each(cases)('$name is what its definition says', async ({ settings }) => {
    const model = await tinyModel(runtime, settings)
    const { options, samples, base, rate } = model
    const documents = tinyTexts
      .map((text) => encodeText(text, samples))
      .filter(({ text: [from, to] }) => to - from >= 6)
    expect(documents.length).toBeGreaterThanOrEqual(2)
    const { feeds } = compressorBatch(documents, options.padId, { ...options.pooling, rate })
    const layers = options.pooling.config.compressorLayers ?? base.config.num_hidden_layers
    const expected = expectedMemory(model, documents, await hiddenStates(model, feeds, layers))
    expect(largestDifference(await memoryOf(model, documents), expected)).toBeLessThan(1e-5)
  })

  test('has the norm of the input embeddings with memoryNorm', async () => {
    const model = await tinyModel(runtime, { compressor: { memory: 'mean', memoryNorm: true } })
    const width = model.base.config.hidden_size
    const memory = await memoryOf(model, [encodeText(tinyTexts[0] ?? '', model.samples)])
    for (let row = 0; row < memory.length / width; row++) {
      const norm = Math.hypot(...memory.subarray(row * width, (row + 1) * width))
      expect(norm / model.base.embeddingNorm).toBeCloseTo(1, 5)
    }
  })
})

const kinds: [string, Partial<CompressorConfig>][] = [
  ['tokens', { memory: 'tokens' }],
  ['mean', { memory: 'mean', ...proportional }],
  ['salient, both ways', { memory: 'salient', attention: 'bidirectional', memoryNorm: true, ...proportional }],
]

test.each(kinds)("padding and neighbours change nothing about a document's memory: %s", async (_, compressor) => {
  const model = await tinyModel(runtime, { compressor })
  const documents = tinyTexts.map((text) => encodeText(text, model.samples))
  expect(new Set(documents.map(({ ids }) => ids.length)).size).toBe(3)
  const together = await memoryOf(model, documents)
  const alone: number[] = []
  for (const document of documents) alone.push(...(await memoryOf(model, [document])))
  expect(largestDifference(together, alone)).toBeLessThan(1e-5)
})

test('a memory token sees what stands behind its window only with bidirectional attention', async () => {
  for (const attention of ['causal', 'bidirectional'] as const) {
    const model = await tinyModel(runtime, { compressor: { memory: 'mean', attention, ...proportional } })
    const document = encodeText(tinyTexts[0] ?? '', model.samples)
    const last = document.text[1] - 1
    const changed = { ...document, ids: document.ids.map((id, at) => (at === last ? id + 1 : id)) }
    const [before, after] = [await memoryOf(model, [document]), await memoryOf(model, [changed])]
    const width = model.base.config.hidden_size
    const difference = largestDifference(after.subarray(0, width), before.subarray(0, width))
    if (attention === 'causal') expect(difference).toBe(0)
    else expect(difference).toBeGreaterThan(1e-4)
    expect(largestDifference(after, before)).toBeGreaterThan(1e-2)
  }
})

test('one memory token repeated gives a memory of its own at every place', async () => {
  const model = await tinyModel(runtime, { compressor: { memory: 'tokens' } })
  const document = encodeText(tinyTexts[0] ?? '', model.samples)
  const slots = document.ids.slice(-document.memoryTokens)
  expect(slots).toEqual(new Array(6).fill(model.options.firstMemoryToken))
  const memory = await memoryOf(model, [document])
  const width = model.base.config.hidden_size
  expect(memory.length).toBe(6 * width)
  expect(largestDifference(memory.subarray(width, 2 * width), memory.subarray(0, width))).toBeGreaterThan(1e-3)

  // the same as a token of its own for every slot, when all of those are alike
  const several = await tinyModel(runtime, { compressor: { memory: 'tokens' }, differentMemTokens: true })
  const row = model.options.parameters.get('memory_tokens.weight')?.data as Float32Array
  const repeated = Float32Array.from({ length: 6 * width }, (_, at) => row[at % width] ?? 0)
  const parameters = new Map(model.options.parameters).set('memory_tokens.weight', float32(repeated, [6, width]))
  const like = { ...several, options: { ...several.options, parameters } }
  const same = encodeText(tinyTexts[0] ?? '', several.samples)
  const text = same.ids.slice(1, -6)
  expect(text).toEqual(document.ids.slice(1, -6))
  expect(
    largestDifference(await memoryOf(like, [{ ...same, ids: [document.ids[0] ?? 0, ...same.ids.slice(1)] }]), memory),
  ).toBeLessThan(1e-5)
})

test('a text that contains special tokens gets none of them', async () => {
  const { tokenizer } = await tinyModel(runtime, { differentMemTokens: true })
  const text = 'a <MEM0> b <SEP> c <ENC> d </s> e <s> f [INST] g'
  const {
    ids,
    text: [from, to],
  } = encodeDocument(tokenizer, text, { docMaxLength: 200 })
  const specials = ['<MEM0>', '<SEP>', '<ENC>', '</s>', '<s>'].map((token) => tokenizer.idOf(token))
  expect(specials).not.toContain(undefined)
  expect(ids.slice(from, to).filter((id) => specials.includes(id))).toEqual([])
  expect(tokenizer.decode(ids.slice(from, to))).toContain('<MEM0> b <SEP> c <ENC> d </s> e <s> f')
})

describe('the gradient of the stage 1 loss agrees with finite differences', () => {
  const configurations: [string, TinyOptions][] = [
    ['tokens', { compressor: { memory: 'tokens' }, differentMemTokens: true }],
    [
      'tokens at the norm of embeddings, tied head',
      { compressor: { memory: 'tokens', memoryNorm: true }, architecture: 'llama-3' },
    ],
    [
      'mean, both ways',
      { compressor: { memory: 'mean', attention: 'bidirectional', compressorLayers: 2, ...proportional } },
    ],
    ['salient', { compressor: { memory: 'salient', ...proportional } }],
    [
      'salient, both ways, at the norm of embeddings',
      { compressor: { memory: 'salient', attention: 'bidirectional', memoryNorm: true, ...proportional } },
    ],
  ]

  test.each(configurations)('%s', async (_, settings) => {
    const { options, samples, rate } = await tinyModel(runtime, settings)
    const documents = tinyTexts.map((text) => encodeText(text, samples))
    const questions = [
      { question: 'What was closed?', answer: 'The bridges.' },
      { question: 'For how long did it rain?', answer: 'For nine days.' },
    ]
    const rows = [
      answerSample(documents.slice(0, 2), questions, samples, 0).row,
      answerSample(documents.slice(2), questions.slice(0, 1), samples, 2).row,
    ]
    const training = stage1Graph(graphOptions(options))
    const session = await runtime.open(training.model, options.base.weights)
    const fixed = { ...stageFeeds({ documents, rows, rate }, options, 0.02), mseWeight: float32([0.5], [1]) }
    const values = new Map(training.parameters.map((name) => [name, options.parameters.get(name) as HostTensor]))
    const results = await session.run({ ...fixed, ...Object.fromEntries(values) })

    const groups = new Map<string, string[]>()
    for (const name of training.parameters) {
      const group = name.replace(/^model\.layers\.\d+\.[\w.]+\.(lora_[AB]\.\w+)\.weight$/, '$1')
      groups.set(group, [...(groups.get(group) ?? []), name])
    }
    expect(groups.size).toBeGreaterThanOrEqual(4)
    const random = createRandom(3)
    for (const [group, names] of groups) {
      const gradient = new Map(names.map((name) => [name, results[`grad:${name}`]?.data as Float32Array]))
      const flat = [...gradient.values()].flatMap((values) => [...values])
      const norm = Math.hypot(...flat)
      expect(norm, group).toBeGreaterThan(1e-5)
      // half along the gradient, so that there is something to measure, and half anywhere, so that all of it counts
      const direction = new Map(
        [...gradient].map(([name, values]) => [
          name,
          Float64Array.from(values, (x) => x / norm + (0.5 * random.normal()) / Math.sqrt(flat.length)),
        ]),
      )
      const lossAt = async (h: number) => {
        const moved = [...direction].map(([name, along]) => {
          const value = values.get(name) as HostTensor
          const data = Float32Array.from(value.data as Float32Array, (x, at) => x + h * (along[at] ?? 0))
          return [name, { ...value, data }]
        })
        const { loss } = await session.run(
          { ...fixed, ...Object.fromEntries(values), ...Object.fromEntries(moved) },
          { fetch: ['loss'] },
        )
        return Number(loss?.data[0])
      }
      const slope = async (h: number) => ((await lossAt(h)) - (await lossAt(-h))) / (2 * h)
      const analytic = [...gradient].reduce(
        (sum, [name, values]) => values.reduce((total, x, at) => total + x * (direction.get(name)?.[at] ?? 0), sum),
        0,
      )
      const h = 0.02
      const [coarse, fine] = [await slope(h), await slope(h / 2)]
      const extrapolated = (4 * fine - coarse) / 3
      const rounding = (8 * 2 ** -24 * (await lossAt(0))) / h
      expect(Math.abs(extrapolated - analytic), group).toBeLessThan(4e-3 * Math.abs(analytic) + rounding)
    }
    await session.close()
  })
})

test('a query reasoner has salient numbers of its own, or shares those of the compressor', () => {
  const number = (value: number) => float32([value], [1])
  const shared = new Map([
    [SALIENT.alpha, number(1)],
    [SALIENT.beta, number(2)],
    ['model.layers.0.mlp.up_proj.lora_A.encoder_adapter.weight', number(3)],
  ])
  const both = new Map([...shared, [REASONER_SALIENT.alpha, number(4)]])
  const found = (parameters: ReadonlyMap<string, HostTensor>, role: Role) =>
    Object.fromEntries(Object.entries(memoryParameters(parameters, role)).map(([name, { data }]) => [name, data[0]]))
  expect(found(shared, 'query_reasoner_adapter')).toEqual({ [SALIENT.alpha]: 1, [SALIENT.beta]: 2 })
  expect(found(both, 'query_reasoner_adapter')).toEqual({ [SALIENT.alpha]: 4, [SALIENT.beta]: 2 })
  expect(found(both, 'encoder_adapter')).toEqual({ [SALIENT.alpha]: 1, [SALIENT.beta]: 2 })
})

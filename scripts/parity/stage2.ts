import { z } from 'zod'
import { gradients } from '../../src/autodiff/gradients.ts'
import { compressorBatch, generatorBatch } from '../../src/clara/batch.ts'
import { compressor, MEMORY_ROWS } from '../../src/clara/compressor.ts'
import { generator } from '../../src/clara/generator.ts'
import { declareBase } from '../../src/clara/network.ts'
import { flatSimilarity } from '../../src/clara/similarity.ts'
import { chosenMemory, differentiableTopK } from '../../src/clara/topk.ts'
import { float32, type HostTensor, int64 } from '../../src/graph/dtype.ts'
import { addInput, addOutput, createGraph, type Tensor } from '../../src/graph/graph.ts'
import { add, divide, log, multiply, negate, scalar, scale, subtract } from '../../src/ops/elementwise.ts'
import { gather } from '../../src/ops/indexing.ts'
import { reshape } from '../../src/ops/layout.ts'
import { softmax } from '../../src/ops/normalise.ts'
import { reduceMax, reduceSum } from '../../src/ops/reduce.ts'
import { encodeGraph } from '../../src/ops/table.ts'
import { compress } from './compression.ts'
import {
  encodeText,
  type LoadedCheckpoint,
  longest,
  type Parity,
  parametersOf,
  poolingOf,
  publishedCompressor,
} from './model.ts'
import { comparePrompts, samplesOf, stage2Input } from './prompts.ts'
import { tolerances } from './report.ts'
import { compareGradients, compareLogits, readingRows, tailOf } from './stages.ts'

const losses = z.object({ loss: z.number(), mse_loss: z.number(), total: z.number() })

/** `stage2`: the answer's loss through the top-k; `stage2_pretrain_retrieval`: the contrastive loss of the scores. */
export type RetrievalStage = 'stage2' | 'stage2_pretrain_retrieval'

/** Query reasoner and generator learn over frozen memory: choice, losses and all gradients. */
export async function compareStage2(
  parity: Parity,
  checkpoint: LoadedCheckpoint,
  stage: RetrievalStage,
): Promise<void> {
  const { fixture, report, runtime } = parity
  const { tokenizer, memory, memoryRows, firstMemoryToken } = checkpoint
  const { rows: input, generation_top_k: k, temperature } = fixture.value('stage2.input', stage2Input)
  const expected = fixture.value(stage, losses)
  const prompts = comparePrompts(parity, stage, samplesOf(parity, 'stage2'))
  const pool = longest(input.map(([documents]) => documents))
  const [batch, hidden] = [input.length, checkpoint.decoder.hidden_size]
  const documents = await compress(
    runtime,
    checkpoint,
    'encoder_adapter',
    input.flatMap(([texts]) => texts),
  )
  report.close(`${stage}.mse_loss`, documents.mseLoss, expected.mse_loss, tolerances.loss)

  const questions = input.map(([, question]) => encodeText(checkpoint, question))
  const rows = readingRows(
    prompts,
    prompts.map(() => k),
  )
  const positions = Math.max(poolingOf(checkpoint).width ?? 0, longest([...questions, ...rows].map(({ ids }) => ids)))
  const graph = stage2Graph(checkpoint, { stage, batch, pool, k, temperature, positions })
  await using session = await runtime.open(graph.model, checkpoint.model.weights)
  const isMemory = (id: number) => id >= firstMemoryToken && id < firstMemoryToken + (memoryRows.dims[0] ?? 0)
  const memoryCounts = new Array<number>(batch * k).fill(memory.count)
  const labels = rows.reduce((sum, row) => sum + row.labels.length, 0)
  const pooling = poolingOf(checkpoint)
  const run = (reading: typeof rows) =>
    session.run({
      ...compressorBatch(questions, tokenizer.padId, pooling).feeds,
      ...generatorBatch(reading, { padId: tokenizer.padId, isMemory, memoryCounts, labelWeight: 1 / labels }),
      ...Object.fromEntries(parametersOf(checkpoint, ['query_reasoner_adapter', 'decoder_adapter'])),
      ...relevance(parity, stage, batch, pool),
      queryRows: int64(Array.from({ length: batch * memory.count }).keys(), [batch, memory.count]),
      documentMemory: { ...documents.memory, dims: [batch, pool, memory.count, hidden] },
    })

  const results = await run(rows)
  const loss = Number(results.loss?.data[0])
  report.close(`${stage}.loss`, loss, expected.loss, tolerances.loss)
  report.close(`${stage}.total`, loss, expected.total, tolerances.loss)
  report.exact(
    `${stage}.topk_idx`,
    Array.from(results.indices?.data ?? [], Number),
    fixture.rows(`${stage}.topk_idx`).flat(),
  )
  if (stage === 'stage2') {
    const { data } = documents.memory
    report.close(
      'stage2.doc_memory',
      { dims: [batch * pool, memory.count, hidden], data },
      fixture.tensor('stage2.doc_memory'),
      tolerances.memory,
    )
    const query = results.query
    const flattened = query && { dims: [batch, memory.count * hidden], data: query.data }
    report.close('stage2.query_rep', flattened, fixture.tensor('stage2.query_rep'), tolerances.memory)
    report.close('stage2.scores', results.scores, fixture.tensor('stage2.scores'), tolerances.scores)
    compareLogits(parity, stage, (await run(rows.map(tailOf))).logits)
  }
  const named = graph.parameters.map((name) => [name, results[`grad:${name}`]?.data as Float32Array] as const)
  compareGradients(parity, stage, new Map(named))
}

/** Which candidates answer the question (retrieval pretraining only). */
function relevance(
  { fixture }: Parity,
  stage: RetrievalStage,
  batch: number,
  pool: number,
): Record<string, HostTensor> {
  if (stage === 'stage2') return {}
  const { pos_index } = fixture.value(
    'stage2_pretrain_retrieval.input',
    z.object({ pos_index: z.array(z.array(z.number())) }),
  )
  const relevant = pos_index.flatMap((places) =>
    Array.from({ length: pool }, (_, place) => Number(places.includes(place))),
  )
  return { relevant: float32(relevant, [batch, pool]) }
}

interface Stage2Options {
  readonly stage: RetrievalStage
  readonly batch: number
  readonly pool: number
  readonly k: number
  readonly temperature: number
  readonly positions: number
}

function stage2Graph(checkpoint: LoadedCheckpoint, { stage, batch, pool, k, temperature, positions }: Stage2Options) {
  const { model, lora, memory, memoryRows } = checkpoint
  const hidden = model.config.hidden_size
  const graph = createGraph(stage)
  const base = declareBase(graph, model.config, model.vocabulary, positions)
  const reasoner = compressor(base, {
    role: 'query_reasoner_adapter',
    lora,
    config: publishedCompressor,
    memoryTokens: memoryRows.dims[0] ?? 0,
    embeddingNorm: model.embeddingNorm,
  })
  const query = gather(reasoner.memory, addInput(graph, 'queryRows', 'int64', [batch, memory.count]))
  const documents = addInput(graph, 'documentMemory', 'float32', [batch, pool, memory.count, hidden])
  const scores = flatSimilarity(query, documents)
  const { weights, indices } = differentiableTopK(scores, k, temperature)
  const answer = generator(base, reshape(chosenMemory(weights, documents), [-1, hidden]), { lora })
  const loss =
    stage === 'stage2'
      ? answer.loss
      : contrastiveLoss(scores, addInput(graph, 'relevant', 'float32', [batch, pool]), temperature)
  // the memory tokens' embeddings are frozen, and retrieval alone never reaches the generator
  const trained = [...reasoner.parameters, ...(stage === 'stage2' ? answer.parameters : [])].filter(
    ([name]) => name !== MEMORY_ROWS,
  )
  for (const [name, tensor] of Object.entries({ query, scores, indices, loss, logits: answer.logits }))
    addOutput(graph, name, tensor)
  const results = gradients(
    loss,
    trained.map(([, tensor]) => tensor),
  )
  trained.forEach(([name], index) => {
    addOutput(graph, `grad:${name}`, results[index] as Tensor)
  })
  return { model: encodeGraph(graph), parameters: trained.map(([name]) => name) }
}

/** -log(Σ_relevant e^(s/τ) / Σ_all e^(s/τ)), the mean over questions that have a relevant candidate. */
function contrastiveLoss(scores: Tensor, relevant: Tensor, temperature: number): Tensor {
  const found = reduceSum(multiply(softmax(scale(scores, 1 / temperature)), relevant), [1])
  const counted = reduceMax(relevant, [1])
  // where there is none, the logarithm of 1
  const logarithms = log(add(found, subtract(scalar(found, 1), counted)))
  return negate(divide(reduceSum(logarithms), reduceSum(counted)))
}

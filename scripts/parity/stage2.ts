import { z } from 'zod'
import { hardTopK } from '../../src/clara/topk.ts'
import { float32, type HostTensor } from '../../src/graph/dtype.ts'
import {
  openRetrieval,
  openRetrievalEvaluation,
  type RetrievalBatch,
  type RetrievalModelOptions,
} from '../../src/training/stages/retrieval.ts'
import { compress } from './compression.ts'
import { encodeText, type LoadedCheckpoint, longest, type Parity, parametersOf, poolingOf } from './model.ts'
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
  const { memory } = checkpoint
  const objective = stage === 'stage2' ? 'answer' : 'contrastive'
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

  const rows = readingRows(
    prompts,
    prompts.map(() => k),
  )
  const width = memory.count * hidden
  const memories = Array.from({ length: batch * pool }, (_, index) => ({
    tokens: (documents.memory.data as Float32Array).slice(index * width, (index + 1) * width),
    shape: [memory.count, hidden] as const,
  }))
  const retrieval: RetrievalBatch = {
    questions: input.map(([, question]) => encodeText(checkpoint, question)),
    memories,
    pools: input.map((_, row) => Array.from({ length: pool }, (_, place) => row * pool + place)),
    relevant: relevance(parity, stage, pool),
    rows: objective === 'answer' ? rows : [],
    rate: checkpoint.config.compr_rate,
  }
  const options = retrievalOptions(parity, checkpoint, retrieval, { objective, topK: k, temperature })

  const training = await openRetrieval(options)
  try {
    const normaliser = training.labelledTokens(retrieval)
    const { loss, gradients } = await training.lossAndGradients(retrieval, { normaliser, share: 1, seed: 0 })
    report.close(`${stage}.loss`, loss, expected.loss, tolerances.loss)
    report.close(`${stage}.total`, loss, expected.total, tolerances.loss)
    compareGradients(parity, stage, gradients)
  } finally {
    await training.close()
  }

  const evaluation = await openRetrievalEvaluation(options)
  try {
    const results = await evaluation.outputs(retrieval)
    const scores = ownScores(results.scores, batch, pool)
    const chosen =
      objective === 'answer'
        ? Array.from(results.indices?.data ?? [], Number).map((index, at) => index - Math.floor(at / k) * pool)
        : scores.flatMap((row) => hardTopK(row, k))
    report.exact(`${stage}.topk_idx`, chosen, fixture.rows(`${stage}.topk_idx`).flat())
    if (objective === 'contrastive') return
    const { data } = documents.memory
    report.close(
      'stage2.doc_memory',
      { dims: [batch * pool, memory.count, hidden], data },
      fixture.tensor('stage2.doc_memory'),
      tolerances.memory,
    )
    const { query } = results
    const flattened = query && { dims: [batch, width], data: query.data }
    report.close('stage2.query_rep', flattened, fixture.tensor('stage2.query_rep'), tolerances.memory)
    const table = float32(Float32Array.from(scores.flat()), [batch, pool])
    report.close('stage2.scores', table, fixture.tensor('stage2.scores'), tolerances.scores)
    const { logits } = await evaluation.outputs({ ...retrieval, rows: rows.map(tailOf) })
    compareLogits(parity, stage, logits)
  } finally {
    await evaluation.close()
  }
}

/** Which candidates answer the question, among the documents of all questions (retrieval pretraining only). */
function relevance({ fixture }: Parity, stage: RetrievalStage, pool: number): number[][] {
  if (stage === 'stage2') return []
  const { pos_index } = fixture.value(
    'stage2_pretrain_retrieval.input',
    z.object({ pos_index: z.array(z.array(z.number())) }),
  )
  return pos_index.map((places, row) => places.filter((place) => place < pool).map((place) => row * pool + place))
}

/** Each question's scores of its own candidates. */
function ownScores(scores: HostTensor | undefined, batch: number, pool: number): number[][] {
  const all = Array.from(scores?.data ?? [], Number)
  return Array.from({ length: batch }, (_, row) => all.slice(row * (batch + 1) * pool, row * (batch + 1) * pool + pool))
}

function retrievalOptions(
  { runtime }: Parity,
  checkpoint: LoadedCheckpoint,
  { questions, rows }: RetrievalBatch,
  choice: Pick<RetrievalModelOptions, 'objective' | 'topK' | 'temperature'>,
): RetrievalModelOptions {
  const pooling = poolingOf(checkpoint)
  return {
    ...choice,
    runtime,
    base: checkpoint.model,
    lora: checkpoint.lora,
    pooling,
    memoryTokens: checkpoint.memoryRows.dims[0] ?? 0,
    firstMemoryToken: checkpoint.firstMemoryToken,
    padId: checkpoint.tokenizer.padId,
    positions: Math.max(pooling.width ?? 0, longest([...questions, ...rows].map(({ ids }) => ids))),
    dropout: 0,
    mseWeight: 0,
    parameters: parametersOf(checkpoint, ['query_reasoner_adapter', 'decoder_adapter']),
  }
}

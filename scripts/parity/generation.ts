import { z } from 'zod'
import { inferenceRole } from '../../src/clara/inference.ts'
import { embeddingTable } from '../../src/clara/network.ts'
import { answerPrompt, documentSlot, promptIds, withParsedSpecials } from '../../src/clara/prompts.ts'
import { memorySimilarity } from '../../src/clara/similarity.ts'
import { hardTopK } from '../../src/clara/topk.ts'
import { float32, type HostTensor } from '../../src/graph/dtype.ts'
import { openCachedModel } from '../../src/model/cached.ts'
import { generate } from '../../src/model/generate.ts'
import { gather } from '../../src/ops/indexing.ts'
import type { ChatMessage, PromptText } from '../../src/tokenizer/types.ts'
import { type Compressed, compress } from './compression.ts'
import { type LoadedCheckpoint, longest, type Parity } from './model.ts'
import { paraphraseAsIn, rendered } from './prompts.ts'

/** Ids after which the published code cuts a prompt that it answers. */
const LONGEST_PROMPT = 1024

const texts = z.array(z.string())
const ids = z.array(z.array(z.number()))
const textCase = z.object({
  questions: texts,
  documents: z.array(texts),
  max_new_tokens: z.number().int(),
  prompts: texts,
  answers: texts,
  ids,
})
const answersCase = z.object({ answers: texts, ids })
const stopCase = z.object({
  eos_token_id: z.union([z.number().int(), z.array(z.number().int())]),
  pad_token_id: z.number().int(),
  ids,
})
const paraphraseCase = z.object({ documents: z.array(texts), prompts: texts, answers: texts, ids })
const questionsCase = textCase.omit({ max_new_tokens: true }).extend({ topk_idx: ids })

/** Greedy answers from memory that was just made, handed over, or handed over in another order, and with another end. */
export async function compareAnswers(parity: Parity): Promise<void> {
  const { fixture, report, runtime, stage1 } = parity
  const text = fixture.value('generate_from_text', textCase)
  const slot = documentSlot(stage1.memory)
  const conversations = text.questions.map((question, index) =>
    answerPrompt(question, new Array<PromptText>(text.documents[index]?.length ?? 0).fill(slot)),
  )
  comparePromptTexts(parity, 'generate_from_text', conversations, text.prompts)
  const { memory } = await compress(runtime, stage1, 'encoder_adapter', text.documents.flat())
  const write = (from: HostTensor, ends = {}) =>
    greedy(parity, stage1, conversations, from, { maxNewTokens: text.max_new_tokens, ...ends })

  compareWritten(parity, 'generate_from_text', await write(memory), text)
  if (fixture.has('generate_from_compressed')) {
    const expected = fixture.value('generate_from_compressed', answersCase)
    compareWritten(parity, 'generate_from_compressed', await write(memory), expected)
  }
  if (fixture.has('generate_from_swapped')) {
    const expected = fixture.value('generate_from_swapped', answersCase)
    compareWritten(parity, 'generate_from_swapped', await write(reversed(memory, stage1.memory.count)), expected)
  }
  if (fixture.has('generate_stop')) {
    const stop = fixture.value('generate_stop', stopCase)
    const rows = await write(memory, { stopIds: [stop.eos_token_id].flat() })
    report.exact('generate_stop.ids', padded(rows, stop.pad_token_id), stop.ids)
  }
}

/** Documents said otherwise. */
export async function compareParaphrases(parity: Parity): Promise<void> {
  const { fixture, runtime, stage1 } = parity
  const expected = fixture.value('generate_from_paraphrase', paraphraseCase)
  const conversations = expected.prompts.map((prompt) => paraphraseAsIn(prompt, stage1))
  comparePromptTexts(parity, 'generate_from_paraphrase', conversations, expected.prompts)
  const { memory } = await compress(runtime, stage1, 'encoder_adapter', expected.documents.flat())
  const maxNewTokens = longest(expected.ids)
  compareWritten(
    parity,
    'generate_from_paraphrase',
    await greedy(parity, stage1, conversations, memory, { maxNewTokens }),
    expected,
  )
}

/** Questions that first find their documents, with the checkpoint of stage 2. */
export async function compareQuestions(parity: Parity, checkpoint: LoadedCheckpoint): Promise<void> {
  const { fixture, report, runtime } = parity
  const expected = fixture.value('generate_from_questions', questionsCase)
  const { count } = checkpoint.memory
  const asked = await compress(runtime, checkpoint, 'query_reasoner_adapter', expected.questions)
  const pools = await compress(runtime, checkpoint, 'encoder_adapter', expected.documents.flat())
  const width = checkpoint.decoder.hidden_size
  const memoryOf = ({ memory }: Compressed, index: number) =>
    (memory.data as Float32Array).subarray(index * count * width, (index + 1) * count * width)

  let first = 0
  const chosen = expected.documents.map((pool, index) => {
    const scores = pool.map((_, place) =>
      memorySimilarity('flat', memoryOf(asked, index), memoryOf(pools, first + place), width),
    )
    const places = hardTopK(scores, expected.topk_idx[index]?.length ?? 0)
    const memories = places.map((place) => memoryOf(pools, first + place))
    first += pool.length
    return { places, memories }
  })
  report.exact(
    'generate_from_questions.topk_idx',
    chosen.map(({ places }) => places),
    expected.topk_idx,
  )

  const slot = documentSlot(checkpoint.memory)
  const conversations = expected.questions.map((question, index) =>
    answerPrompt(question, new Array<PromptText>(chosen[index]?.places.length ?? 0).fill(slot)),
  )
  comparePromptTexts(parity, 'generate_from_questions', conversations, expected.prompts)
  const data = Float32Array.from(chosen.flatMap(({ memories }) => memories.flatMap((memory) => [...memory])))
  const memory = float32(data, [data.length / width, width])
  const rows = await greedy(parity, checkpoint, conversations, memory, { maxNewTokens: longest(expected.ids) })
  compareWritten(parity, 'generate_from_questions', rows, expected)
}

function comparePromptTexts(
  { report, stage1 }: Parity,
  name: string,
  conversations: readonly (readonly ChatMessage[])[],
  expected: readonly string[],
): void {
  report.exact(
    `${name}.prompts`,
    conversations.map((messages) => rendered(stage1.tokenizer, messages)),
    expected,
  )
}

function compareWritten(
  { report, stage1: { tokenizer } }: Parity,
  name: string,
  rows: readonly (readonly number[])[],
  expected: z.infer<typeof answersCase>,
): void {
  report.exact(`${name}.ids`, padded(rows, tokenizer.padId), expected.ids)
  report.exact(
    `${name}.answers`,
    rows.map((row) => tokenizer.decode(row, { skipSpecials: true })),
    expected.answers,
  )
}

/** Rows that ended early, filled up on the right. */
function padded(rows: readonly (readonly number[])[], padId: number): number[][] {
  const width = longest(rows)
  return rows.map((row) => [...row, ...new Array<number>(width - row.length).fill(padId)])
}

/** The memories of all documents in reverse order. */
function reversed({ dims, data }: HostTensor, count: number): HostTensor {
  const size = count * (dims[1] ?? 0)
  const all = data as Float32Array
  const result = new Float32Array(all.length)
  for (let start = 0; start < all.length; start += size) {
    result.set(all.subarray(start, start + size), all.length - start - size)
  }
  return float32(result, dims)
}

/** Continues the prompts greedily, one batch; their memories lie one after the other. */
async function greedy(
  { runtime }: Parity,
  checkpoint: LoadedCheckpoint,
  conversations: readonly (readonly ChatMessage[])[],
  memory: HostTensor,
  {
    maxNewTokens,
    stopIds = checkpoint.stopIds,
  }: { readonly maxNewTokens: number; readonly stopIds?: readonly number[] },
): Promise<number[][]> {
  const { tokenizer, model, lora, firstMemoryToken, memoryRows } = checkpoint
  const lastMemoryToken = firstMemoryToken + (memoryRows.dims[0] ?? 0) - 1
  let next = 0
  const prompts = conversations.map((messages) => {
    const ids = promptIds(tokenizer, withParsedSpecials(messages)).slice(0, LONGEST_PROMPT)
    return { ids, memoryRows: ids.map((id) => (id >= firstMemoryToken && id <= lastMemoryToken ? next++ : -1)) }
  })
  const maxPositions = longest(prompts.map(({ ids }) => ids)) + maxNewTokens
  const role = await inferenceRole({
    runtime,
    base: model,
    adapters: checkpoint.adapters.get('decoder_adapter') ?? new Map(),
    role: 'decoder_adapter',
    size: lora,
    layers: model.config.num_hidden_layers,
    kind: 'fp32',
    head: true,
  })
  await using writer = await openCachedModel({
    runtime,
    config: model.config,
    maxPositions,
    padId: tokenizer.padId,
    weights: role.weights,
    parts: (graph) => {
      const { base, decoder, head } = role.declare(graph, maxPositions)
      return { decoder, head, embed: (tokens) => gather(embeddingTable(base), tokens) }
    },
  })
  return await generate(writer, prompts, memory, { maxNewTokens, stopIds, padId: tokenizer.padId })
}

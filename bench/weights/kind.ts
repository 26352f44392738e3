import { join } from 'node:path'
import { openSafetensors, writeSafetensors } from '../../src/checkpoint/safetensors.ts'
import { encodeText } from '../../src/clara/document.ts'
import { joinMemories, type Memory } from '../../src/clara/encoder.ts'
import { headKind } from '../../src/clara/layer-stack.ts'
import type { ClaraModel } from '../../src/clara/model.ts'
import { answerPrompt, documentSlot, trainingPrompt } from '../../src/clara/prompts.ts'
import { openRoles, type Roles } from '../../src/clara/roles.ts'
import { openInferenceModel } from '../../src/clara/stored-model.ts'
import { readJsonLines } from '../../src/data/jsonl.ts'
import { passageSchema } from '../../src/data/schemas.ts'
import { bytesPerElement, elementCount, float32 } from '../../src/graph/dtype.ts'
import { linearModules } from '../../src/model/config.ts'
import { storedParts } from '../../src/model/stored.ts'
import type { WeightKind } from '../../src/model/weight-kinds.ts'
import { openRuntime } from '../../src/runtime/runtime.ts'
import { inTurn, median } from '../measure.ts'
import { peakMiB } from '../peak.ts'
import type { KindFigures, WeightsOptions } from './weights.ts'

export interface Question {
  readonly text: string
  readonly question: string
  readonly answer: string
}

/** What one process measures: the figures of one kind. The first is fp32, whose memories the others are compared with. */
export async function measureKind(options: WeightsOptions & { readonly kind: WeightKind }): Promise<KindFigures> {
  const { kind, threads, work } = options
  const model = await openInferenceModel(options.model, {}, { kind, lowMemory: false, folder: join(work, 'cache') })
  await using runtime = await openRuntime({ threads })
  const roles = await openRoles(model, runtime, { kind, lowMemory: false })
  const questions = await readQuestions(options)
  const documents = questions.map(({ text }) => encodeText(model, text, 'A passage').document)
  const memories = await roles.encoder.encode(documents)
  const answerLoss = await meanLoss(model, roles, questions, memories)
  const cosines = await compare(join(work, 'fp32.safetensors'), memories, kind)
  const times = await inTurn(options.repetitions, {
    compress: () => roles.encoder.encode(documents),
    write: () => write(roles, model, options.newTokens),
  })
  return {
    weightsMiB: weightBytes(model, kind) / 2 ** 20,
    peakMiB: peakMiB(),
    documentsPerSecond: (documents.length * 1000) / median(times.compress),
    tokensPerSecond: (options.newTokens * 1000) / median(times.write),
    meanCosine: cosines.reduce((sum, cosine) => sum + cosine, 0) / cosines.length,
    minCosine: Math.min(...cosines),
    answerLoss,
  }
}

/** The first question of passages, each of another one. */
export async function readQuestions({
  passages,
  documents,
}: Pick<WeightsOptions, 'passages' | 'documents'>): Promise<Question[]> {
  const questions: Question[] = []
  for await (const { text, qa } of readJsonLines(passages, passageSchema)) {
    const [first] = qa
    const answer = first?.answers[0]
    if (first && answer !== undefined) questions.push({ text, question: first.question.trim(), answer })
    if (questions.length === documents) break
  }
  return questions
}

/** Mean loss of all answers' tokens, one after the other behind the prompt. */
export async function meanLoss(
  { tokenizer, config, base, firstMemoryToken, memoryTokens }: ClaraModel,
  { generator }: Roles,
  questions: readonly Question[],
  memories: readonly Memory[],
): Promise<number> {
  let [sum, count] = [0, 0]
  for (const [index, { question, answer }] of questions.entries()) {
    const memory = memories[index]
    if (!memory) throw new RangeError('A passage has no memory.')
    const slot = documentSlot({ count: memory.shape[0], differentMemTokens: config.different_mem_tokens })
    const { ids, promptLength } = trainingPrompt(tokenizer, answerPrompt(question, [slot]), answer)
    let next = 0
    const isMemory = (id: number) => id >= firstMemoryToken && id < firstMemoryToken + memoryTokens
    const prompt = ids.slice(0, promptLength)
    const memoryRows = prompt.map((id) => (isMemory(id) ? next++ : -1))
    const rows = joinMemories([memory], base.config.hidden_size)
    await using continuation = await generator.start([{ ids: prompt, memoryRows }], rows)
    for (const token of ids.slice(promptLength)) {
      sum += lossOf(continuation.logits[0] ?? new Float32Array(), token)
      count += 1
      await continuation.append([token])
    }
  }
  return sum / count
}

function lossOf(logits: Float32Array, token: number): number {
  const largest = logits.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY)
  const sum = logits.reduce((total, value) => total + Math.exp(value - largest), 0)
  return largest + Math.log(sum) - (logits[token] ?? Number.NaN)
}

/** Cosine of every memory token with that of fp32, which comes first and is kept for the others. */
async function compare(path: string, memories: readonly Memory[], kind: WeightKind): Promise<number[]> {
  const width = memories[0]?.shape[1] ?? 0
  const joined = joinMemories(memories, width)
  if (kind === 'fp32') await writeSafetensors(path, new Map([['memories', joined]]))
  await using file = await openSafetensors(path)
  const { data: exact } = await file.read('memories')
  const found = joined.data
  return Array.from({ length: found.length / width }, (_, row) => {
    let [product, a, b] = [0, 0, 0]
    for (let index = row * width; index < (row + 1) * width; index++) {
      const [x, y] = [Number(found[index]), Number(exact[index])]
      product += x * y
      a += x * x
      b += y * y
    }
    return product / Math.sqrt(a * b)
  })
}

/** Greedy, whatever the text says. */
async function write({ generator }: Roles, { tokenizer, base }: ClaraModel, tokens: number): Promise<void> {
  const prompt = { ids: [...tokenizer.encode('The story begins in a small town, where')] }
  await using continuation = await generator.start(
    [prompt],
    float32(new Float32Array(base.config.hidden_size), [1, base.config.hidden_size]),
  )
  for (let index = 0; index < tokens; index++) {
    const logits = continuation.logits[0] ?? new Float32Array()
    await continuation.append([logits.reduce((best, value, token) => (value > (logits[best] ?? 0) ? token : best), 0)])
  }
}

/** Bytes of linear layers and head as this kind; of the embedding, a table in memory only at fp32 and int8. */
function weightBytes({ base }: ClaraModel, kind: WeightKind): number {
  const { config, vocabulary } = base
  const size = (as: WeightKind, dims: readonly number[]) =>
    storedParts(as, 'w', dims).reduce((sum, part) => sum + elementCount(part.dims) * bytesPerElement[part.dtype], 0)
  const inLayer = [...linearModules(config).values()].reduce((sum, dims) => sum + size(kind, dims), 0)
  const table = [vocabulary, config.hidden_size]
  const embedding = (kind === 'fp32' && !config.tie_word_embeddings) || kind === 'int8' ? size('fp32', table) : 0
  return inLayer * config.num_hidden_layers + size(headKind(kind), table) + embedding
}

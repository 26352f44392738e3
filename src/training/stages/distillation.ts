import { type Feeds, type GeneratorRow, generatorBatch } from '../../clara/batch.ts'
import { loraSize } from '../../clara/config.ts'
import { type Generator, type GeneratorOptions, headLogits } from '../../clara/generator.ts'
import { readAdapters } from '../../clara/model.ts'
import { checkBaseFingerprint, readModelFile } from '../../clara/model-folder.ts'
import { type Base, declareRole, embeddingTable } from '../../clara/network.ts'
import { float32, type HostTensor, int64 } from '../../graph/dtype.ts'
import { addInput, addWeight, type Tensor } from '../../graph/graph.ts'
import { adapterShapes, type LoraSize } from '../../lora/adapters.ts'
import { decode } from '../../model/decoder.ts'
import { exp, multiply, scale, stopGradient, subtract } from '../../ops/elementwise.ts'
import { crossEntropy, gather } from '../../ops/indexing.ts'
import { reshape } from '../../ops/layout.ts'
import { reduceSum } from '../../ops/reduce.ts'
import type { StageConfig } from './config.ts'

/** A generator that reads memory learns what one that reads the documents' text would have written. */
export interface DistillationOptions {
  /** Weight beside the answer's own loss. */
  readonly weight: number
  readonly temperature: number
  /** Another model's generator. Default: the one in training, which then reads both. */
  readonly teacher?: Teacher | undefined
}

/** A generator adapter on the same base, which does not change. */
export interface Teacher {
  readonly lora: LoraSize
  readonly adapter: ReadonlyMap<string, HostTensor>
}

const teacherName = (name: string) => `teacher.${name}`

/** The weights that a graph with such a teacher names. */
export const teacherWeights = ({ adapter }: Teacher): Map<string, HostTensor> =>
  new Map([...adapter].map(([name, value]) => [teacherName(name), value]))

/**
 * Reads what the settings name.
 * @throws ClaraError when the teacher's folder holds no model, or one on another base.
 */
export async function openDistillation(
  { weight, temperature, teacher }: NonNullable<StageConfig['distillation']>,
  basePath: string,
  baseFingerprint: string,
): Promise<DistillationOptions> {
  if (teacher === undefined) return { weight, temperature }
  const file = await readModelFile(teacher)
  checkBaseFingerprint(teacher, file, basePath, baseFingerprint)
  const { parameters } = await readAdapters(teacher)
  const adapter = new Map([...parameters].filter(([name]) => name.includes('.decoder_adapter.')))
  return { weight, temperature, teacher: { lora: loraSize(file.clara), adapter } }
}

/**
 * Σ weight · T² · KL(teacher ‖ student) over labels that both have (Hinton et al. 2015), with T the temperature. The teacher's
 * side is constant. Inputs: `teacher.ids`, `teacher.positions` int64 [rows, length], `teacher.bias` float32
 * [rows, 1, 1, length, length], `teacher.labelRows` int64 [shared labels] (flat position whose state predicts),
 * `teacher.labels` int64 [shared labels] (which of the student's labels each is), `teacher.weights` float32 [shared labels].
 */
export function divergence(
  base: Base,
  student: Pick<Generator, 'logits' | 'parameters'>,
  { lora, memoryRows }: GeneratorOptions,
  { temperature, teacher }: DistillationOptions,
): Tensor {
  const { graph, config } = base
  const size = teacher?.lora ?? lora
  const given = teacher ? teacherParameters(base, teacher) : student.parameters
  const { decoder } = declareRole(base, size && 'decoder_adapter', size && { size, given })
  const [batch, length] = ['teacherRows', 'teacherLength']
  const ids = addInput(graph, 'teacher.ids', 'int64', [batch, length])
  const positions = addInput(graph, 'teacher.positions', 'int64', [batch, length])
  const attentionBias = addInput(graph, 'teacher.bias', 'float32', [batch, 1, 1, length, length])
  const embedded = reshape(gather(embeddingTable(base), ids), [-1, config.hidden_size])
  const hidden = decode(decoder, embedded, { batch, length, positions, attentionBias })
  const rows = gather(hidden, addInput(graph, 'teacher.labelRows', 'int64', ['sharedLabels']))
  const labels = addInput(graph, 'teacher.labels', 'int64', ['sharedLabels'])
  // the distributions alone are read, so any class will do
  const first = subtract(labels, labels)
  const logProbabilities = (logits: Tensor) => crossEntropy(scale(logits, 1 / temperature), first).logProbabilities

  const expected = stopGradient(logProbabilities(headLogits(base, rows, memoryRows)))
  const found = logProbabilities(gather(student.logits, labels))
  const divergences = reduceSum(multiply(exp(expected), subtract(expected, found)), [1])
  const weights = addInput(graph, 'teacher.weights', 'float32', ['sharedLabels'])
  return scale(reduceSum(multiply(divergences, weights)), temperature ** 2)
}

function teacherParameters({ graph, config }: Base, { lora }: Teacher): Map<string, Tensor> {
  const shapes = adapterShapes(config, lora, 'decoder_adapter')
  return new Map([...shapes].map(([name, dims]) => [name, addWeight(graph, teacherName(name), 'float32', dims)]))
}

/**
 * The teacher's inputs. A row without a teacher's prompt, or whose two prompts were cut to different answers, is left to its
 * own labels.
 */
export function teacherFeeds(
  rows: readonly GeneratorRow[],
  prompts: readonly (GeneratorRow | undefined)[],
  padId: number,
  labelWeight: number,
): Feeds {
  const read: GeneratorRow[] = []
  const labels: number[] = []
  let first = 0
  rows.forEach((row, index) => {
    const prompt = prompts[index]
    const count = row.labels.length
    if (prompt && prompt.labels.length === count && count > 0) {
      read.push(prompt)
      labels.push(...row.labels.map((_, label) => first + label))
    }
    first += count
  })
  // a graph has no empty sequences: a lone padding token, of which nothing is asked
  if (read.length === 0) read.push({ ids: [padId], positions: [0], segments: [0], labels: [], documents: [] })
  const feeds = generatorBatch(read, { padId, isMemory: () => false, memoryCounts: [], labelWeight })
  return {
    'teacher.ids': valueNamed(feeds, 'promptIds'),
    'teacher.positions': valueNamed(feeds, 'promptPositions'),
    'teacher.bias': valueNamed(feeds, 'promptBias'),
    'teacher.labelRows': valueNamed(feeds, 'labelRows'),
    'teacher.labels': int64(labels, [labels.length]),
    'teacher.weights': float32(new Float32Array(labels.length).fill(labelWeight), [labels.length]),
  }
}

function valueNamed(feeds: Feeds, name: string): HostTensor {
  const value = feeds[name]
  if (!value) throw new RangeError(`There is no input '${name}'.`)
  return value
}

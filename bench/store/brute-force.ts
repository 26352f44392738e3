import type { Memory } from '../../src/clara/encoder.ts'
import { float32, type HostTensor } from '../../src/graph/dtype.ts'
import { addInput, addOutput, addWeight, createGraph, type Tensor } from '../../src/graph/graph.ts'
import { multiply } from '../../src/ops/elementwise.ts'
import { concat, reshape } from '../../src/ops/layout.ts'
import { l2Normalise } from '../../src/ops/normalise.ts'
import { dimAt } from '../../src/ops/operator.ts'
import { matmulRowsInt8, quantiseRows } from '../../src/ops/quantised.ts'
import { reduceMax, reduceSum } from '../../src/ops/reduce.ts'
import { encodeGraph } from '../../src/ops/table.ts'
import type { Runtime } from '../../src/runtime/runtime.ts'
import type { Int8Memory } from '../../src/store/store.ts'

/** Compares a question with every passage. */
export interface BruteForce extends AsyncDisposable {
  /** Maxsim of the question with each passage, in the order in which these were given. */
  scores(question: Memory): Promise<Float32Array>
}

/** Passages whose products are one step of the graph. */
const ROWS_PER_STEP = 4_096
/** Tokens that are transposed together, so that memory is read and written in pieces that fit the cache. */
const TILE = 64

/**
 * Late interaction by integer products on all threads: int8 memories as they are stored, held in the layout that ONNX Runtime multiplies fastest, the question
 * rounded to int8 too, and the greatest cosine per token and the sum in the same graph. Passages with equally many tokens are multiplied together,
 * so that none is filled up.
 */
export async function openBruteForce(runtime: Runtime, memories: readonly Int8Memory[]): Promise<BruteForce> {
  const width = memories[0]?.width ?? 0
  const graph = createGraph('brute force')
  const question = l2Normalise(addInput(graph, 'question', 'float32', ['asked', width]))
  const asked = dimAt(question, 0)
  const rows = quantiseRows(question)
  const weights = new Map<string, HostTensor>()
  const order: number[] = []
  const parts: Tensor[] = []
  for (const step of stepsOf(memories)) {
    const { n = 0 } = memories[step[0] ?? 0] ?? {}
    const name = `memories${parts.length}`
    const columns = step.length * n
    weights.set(
      name,
      transposed(
        step.flatMap((index) => memories[index] ?? []),
        width,
        columns,
      ),
    )
    weights.set(
      `${name} scales`,
      inverseLengths(
        step.flatMap((index) => memories[index] ?? []),
        columns,
      ),
    )
    const memory = addWeight(graph, name, 'int8', [width, columns])
    const scales = addWeight(graph, `${name} scales`, 'float32', [columns])
    const products = matmulRowsInt8(rows, memory, scales)
    const best = reduceMax(reshape(products, [asked, step.length, n]), [-1])
    parts.push(reduceSum(multiply(best, reshape(rows.scales, [asked, 1])), [0]))
    order.push(...step)
  }
  addOutput(graph, 'scores', parts.length === 1 && parts[0] ? parts[0] : concat(parts, 0))
  const session = await runtime.open(encodeGraph(graph), weights)
  return {
    async scores({ tokens, shape }) {
      const { scores } = await session.run({ question: float32(tokens, [...shape]) })
      const found = scores?.data
      if (!(found instanceof Float32Array)) throw new TypeError('The graph gave no scores.')
      const sorted = new Float32Array(found.length)
      order.forEach((index, place) => {
        sorted[index] = found[place] ?? 0
      })
      return sorted
    },
    [Symbol.asyncDispose]: () => session.close(),
  }
}

function stepsOf(memories: readonly Int8Memory[]): number[][] {
  const byCount = new Map<number, number[]>()
  memories.forEach(({ n }, index) => {
    const some = byCount.get(n)
    if (some) some.push(index)
    else byCount.set(n, [index])
  })
  return [...byCount.values()].flatMap((some) =>
    Array.from({ length: Math.ceil(some.length / ROWS_PER_STEP) }, (_, step) =>
      some.slice(step * ROWS_PER_STEP, (step + 1) * ROWS_PER_STEP),
    ),
  )
}

/** [width, columns], a column a token. */
function transposed(memories: readonly Int8Memory[], width: number, columns: number): HostTensor {
  const data = new Int8Array(new SharedArrayBuffer(width * columns))
  let column = 0
  for (const { tokens, n } of memories) {
    for (let first = 0; first < n; first += TILE) {
      const last = Math.min(n, first + TILE)
      for (let index = 0; index < width; index++) {
        for (let token = first; token < last; token++) {
          data[index * columns + column + token] = tokens[token * width + index] ?? 0
        }
      }
    }
    column += n
  }
  return { dtype: 'int8', dims: [width, columns], data }
}

/** What turns a product with a token's integers into one with its direction. */
function inverseLengths(memories: readonly Int8Memory[], columns: number): HostTensor {
  const lengths = new Float32Array(new SharedArrayBuffer(4 * columns))
  let column = 0
  for (const { tokens, n, width } of memories) {
    for (let token = 0; token < n; token++, column++) {
      let squares = 0
      for (let index = token * width; index < (token + 1) * width; index++) squares += (tokens[index] ?? 0) ** 2
      lengths[column] = squares === 0 ? 0 : 1 / Math.sqrt(squares)
    }
  }
  return { dtype: 'float32', dims: [columns], data: lengths }
}

import { createRandom } from '../../src/data/random.ts'
import { float32 } from '../../src/graph/dtype.ts'
import { addInput, addOutput, addWeight, createGraph, type Tensor } from '../../src/graph/graph.ts'
import { matmul } from '../../src/ops/matmul.ts'
import { reduceSum } from '../../src/ops/reduce.ts'
import { encodeGraph } from '../../src/ops/table.ts'
import type { Runtime } from '../../src/runtime/runtime.ts'

/** What a machine can do at most, for others to be measured against. */
export interface Probe extends AsyncDisposable {
  /** FLOPs or bytes of one run. */
  readonly work: number
  run(): Promise<unknown>
}

/** Products that follow each other in one run, so that what goes in and comes out weighs little. */
const PRODUCTS = 8

/** Square float32 products of `size`, one after the other. */
export async function matmulProbe(runtime: Runtime, size: number): Promise<Probe> {
  const random = createRandom(1)
  const graph = createGraph('peak')
  const input = addInput(graph, 'input', 'float32', [size, size])
  const weight = addWeight(graph, 'weight', 'float32', [size, size])
  let product: Tensor = input
  for (let index = 0; index < PRODUCTS; index++) product = matmul(product, weight)
  addOutput(graph, 'sum', reduceSum(product))
  // entries of variance 1 / size keep the products at the size of their factors
  const entries = Float32Array.from({ length: size * size }, () => random.normal() / Math.sqrt(size))
  const value = float32(entries, [size, size])
  const session = await runtime.open(encodeGraph(graph), new Map([['weight', value]]))
  const resident = await runtime.share(value)
  return {
    work: PRODUCTS * 2 * size ** 3,
    run: () => session.run({ input: resident }),
    async [Symbol.asyncDispose]() {
      await session.close()
      await runtime.release(resident)
    },
  }
}

/** The sum of a float32 tensor of some mebibytes, as rows, so that all threads read. */
export async function readProbe(runtime: Runtime, mebibytes: number): Promise<Probe> {
  const [rows, columns] = [1024, mebibytes * 256]
  const graph = createGraph('read')
  addOutput(graph, 'sum', reduceSum(addInput(graph, 'input', 'float32', [rows, columns]), [1]))
  const session = await runtime.open(encodeGraph(graph))
  const resident = await runtime.allocate('float32', [rows, columns])
  return {
    work: rows * columns * 4,
    run: () => session.run({ input: resident }),
    async [Symbol.asyncDispose]() {
      await session.close()
      await runtime.release(resident)
    },
  }
}

import { afterAll, beforeAll, expect, test } from 'vitest'
import { float32 } from '../../src/graph/dtype.ts'
import { addInput, addOutput, createGraph } from '../../src/graph/graph.ts'
import { subtract } from '../../src/ops/elementwise.ts'
import { encodeGraph } from '../../src/ops/table.ts'
import { openRuntime, type Runtime, type Session } from '../../src/runtime/runtime.ts'

let runtime: Runtime
let session: Session
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
  const graph = createGraph('difference')
  const [a, b] = [addInput(graph, 'a', 'float32', ['n', 2]), addInput(graph, 'b', 'float32', ['n', 2])]
  addOutput(graph, 'y', subtract(a, b))
  session = await runtime.open(encodeGraph(graph))
})
afterAll(() => runtime.close())

test('parts of one resident are inputs of their own, also after it has changed', async () => {
  const resident = await runtime.allocate('float32', [4, 2])
  const feeds = { a: { ...resident, from: 2, to: 4 }, b: { ...resident, from: 1, to: 3 } }
  const values = float32([1, 2, 3, 4, 5, 6, 7, 8], [4, 2])
  const zeros = float32(new Float32Array(8), [4, 2])
  expect((await session.run(feeds)).y).toEqual(float32([0, 0, 0, 0], [2, 2]))
  await session.run({ a: values, b: zeros }, { store: { y: { ...resident, axis: 0, start: 0 } } })
  expect((await session.run(feeds)).y).toEqual(float32([2, 2, 2, 2], [2, 2]))
  await runtime.resize(resident, 0, 6)
  const grown = { a: { ...resident, from: 4, to: 6 }, b: { ...resident, from: 2, to: 4 } }
  expect((await session.run(grown)).y).toEqual(float32([-5, -6, -7, -8], [2, 2]))
  await runtime.release(resident)
})

test('a part that the resident does not have is refused', async () => {
  const resident = await runtime.allocate('float32', [3, 2])
  for (const [from, to] of [
    [0, 4],
    [-1, 1],
    [2, 2],
    [0.5, 1.5],
  ] as const) {
    const part = { ...resident, from, to }
    await expect(session.run({ a: part, b: part })).rejects.toThrow(/\[3, 2\] has no part from/)
  }
  await runtime.release(resident)
})

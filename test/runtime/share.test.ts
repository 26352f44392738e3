import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { float32, type HostTensor } from '../../src/graph/dtype.ts'
import { addInput, addOutput, createGraph } from '../../src/graph/graph.ts'
import { subtract } from '../../src/ops/elementwise.ts'
import { encodeGraph } from '../../src/ops/table.ts'
import { openRuntime, type Runtime, type Session, toShared } from '../../src/runtime/runtime.ts'

let runtime: Runtime
let session: Session
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
  const graph = createGraph('difference')
  const [a, b] = [addInput(graph, 'a', 'float32', ['n']), addInput(graph, 'b', 'float32', ['n'])]
  addOutput(graph, 'difference', subtract(a, b))
  session = await runtime.open(encodeGraph(graph), new Map(), { keepMemory: false })
})
afterAll(() => runtime.close())

const vector = (...values: number[]): HostTensor => float32(values, [values.length])
const differenceOf = async (feeds: Parameters<Session['run']>[0]) => {
  const { difference } = await session.run(feeds)
  return [...((difference as HostTensor).data as Float32Array)]
}

describe('a tensor shared with the runtime', () => {
  test('is fed by its handle, whether it lay in shared memory or not', async () => {
    const plain = await runtime.share(vector(5, 7))
    const shared = await runtime.share(toShared(vector(1, 2)))
    expect(await differenceOf({ a: plain, b: shared })).toEqual([4, 5])
    expect(await differenceOf({ a: shared, b: vector(1, 1) })).toEqual([0, 1])
  })

  test('keeps its own values where many of one size take turns', async () => {
    const values = [1, 2, 3, 4, 5]
    const residents = await Promise.all(values.map((value) => runtime.share(vector(value, 10 * value))))
    for (const [i, a] of residents.entries()) {
      for (const [j, b] of residents.entries()) expect(await differenceOf({ a, b })).toEqual([i - j, 10 * (i - j)])
    }
  })

  test('may be a part of a larger shared buffer', async () => {
    const whole = toShared(vector(0, 1, 2, 3, 4)).data as Float32Array
    const part = await runtime.share(float32(whole.subarray(2, 4), [2]))
    expect(await differenceOf({ a: part, b: vector(0, 0) })).toEqual([2, 3])
  })

  test('is not written to', async () => {
    const fixed = await runtime.share(vector(5, 7))
    const run = session.run(
      { a: vector(1, 2), b: vector(0, 0) },
      { store: { difference: { ...fixed, axis: 0, start: 0 } } },
    )
    await expect(run).rejects.toThrow(/'difference' cannot be stored into a shared tensor/)
    expect(await differenceOf({ a: fixed, b: vector(0, 0) })).toEqual([5, 7])
  })

  test('is gone once released', async () => {
    const resident = await runtime.share(vector(5, 7))
    await runtime.release(resident)
    await expect(differenceOf({ a: resident, b: vector(0, 0) })).rejects.toThrow(/does not exist/)
  })
})

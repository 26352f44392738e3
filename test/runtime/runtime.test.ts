import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ClaraError } from '../../src/errors.ts'
import { float32, int64 } from '../../src/graph/dtype.ts'
import { addInput } from '../../src/graph/graph.ts'
import { add, scale } from '../../src/ops/elementwise.ts'
import { type Device, openRuntime, type Runtime, toShared } from '../../src/runtime/runtime.ts'
import { doubling, long, lookup, modelOf, ones, withWeight } from './graphs.ts'

let runtime: Runtime
beforeAll(async () => {
  runtime = await openRuntime({ threads: 1 })
})
afterAll(() => runtime.close())

describe('devices', () => {
  test('one that is unknown is told, with those that are there', async () => {
    await expect(openRuntime({ device: 'abacus' as Device })).rejects.toThrow(
      /^Device 'abacus' is not available: .* does not include 'abacus'.*one of those available here: .*cpu/,
    )
  })

  test('one that does not run on this machine is told, and one that does runs', async () => {
    const outcomes = await Promise.all(
      (['cuda', 'coreml'] as const).map(async (device) => {
        try {
          await using opened = await openRuntime({ device, threads: 1 })
          await using session = await opened.open(doubling([1]))
          return (await session.run({ x: float32([2], [1]) })).y?.data[0]
        } catch (error) {
          return error
        }
      }),
    )
    for (const outcome of outcomes) {
      if (outcome instanceof ClaraError)
        expect(outcome.message).toMatch(/^Device '\w+' is not available: .*here: .*cpu/)
      else expect(outcome).toBe(4)
    }
  })

  test('threads are a positive number', async () => {
    await expect(openRuntime({ threads: 0 })).rejects.toThrow(/cannot have 0 threads. Expected a positive integer/)
  })
})

describe('feeds', () => {
  test('that are missing, or of another type, shape or count', async () => {
    await using session = await runtime.open(doubling(['rows', 2]))
    await expect(session.run({})).rejects.toThrow(/'test' was run without its input 'x'. Expected float32\[rows, 2\]/)
    await expect(session.run({ x: int64([1, 2], [1, 2]) })).rejects.toThrow(/Input 'x'.*Got int64\[1, 2\]/)
    await expect(session.run({ x: float32([1, 2, 3], [1, 3]) })).rejects.toThrow(
      /Expected float32\[rows, 2\]. Got float32\[1, 3\]/,
    )
    await expect(session.run({ x: float32([1, 2, 3], [2, 2]) })).rejects.toThrow(
      /has 3 values. Expected 4 for \[2, 2\]/,
    )
    expect((await session.run({ x: float32([1, 2], [1, 2]) })).y?.data).toEqual(Float32Array.of(2, 4))
  })

  test('that give one symbol two lengths', async () => {
    const model = modelOf(['n'], (x) => ({ y: add(x, addInput(x.graph, 'z', 'float32', ['n'])) }))
    await using session = await runtime.open(model)
    await expect(session.run({ x: float32([1, 2], [2]), z: float32([1], [1]) })).rejects.toThrow(
      /Input 'z' of graph 'test' does not fit: 'n' has two lengths. Expected 2, as in input 'x'. Got 1/,
    )
  })

  test('stay with the caller: views and shared memory are copied, nothing is taken', async () => {
    await using session = await runtime.open(doubling([2]))
    const whole = Float32Array.of(0, 1, 2, 3)
    const shared = toShared(float32([5, 6], [2]))
    expect((await session.run({ x: float32(whole.subarray(1, 3), [2]) })).y?.data).toEqual(Float32Array.of(2, 4))
    expect((await session.run({ x: shared })).y?.data).toEqual(Float32Array.of(10, 12))
    expect(whole).toEqual(Float32Array.of(0, 1, 2, 3))
    expect(shared.data).toHaveLength(2)
  })
})

describe('weights', () => {
  test('that are missing or of another shape', async () => {
    await expect(runtime.open(withWeight())).rejects.toThrow(/'test' needs the weight 'weight'/)
    const weights = new Map([['weight', float32([1, 2], [2])]])
    await expect(runtime.open(withWeight(), weights)).rejects.toThrow(/Expected float32\[3\]. Got float32\[2\]/)
  })

  test('lie in shared or in ordinary memory', async () => {
    const plain = float32([1, 2, 3], [3])
    for (const weight of [plain, toShared(plain)]) {
      await using session = await runtime.open(withWeight(), new Map([['weight', weight]]))
      expect((await session.run({ x: plain })).y?.data).toEqual(Float32Array.of(2, 4, 6))
    }
    expect(toShared(toShared(plain)).data.buffer).toBeInstanceOf(SharedArrayBuffer)
  })
})

describe('outputs', () => {
  const model = modelOf([2], (x) => ({ twice: scale(x, 2), thrice: scale(x, 3), same: x }))
  const x = float32([1, 2], [2])

  test('all of them, or those asked for', async () => {
    await using session = await runtime.open(model)
    expect(Object.keys(await session.run({ x })).sort()).toEqual(['same', 'thrice', 'twice'])
    expect(await session.run({ x }, { fetch: ['thrice'] })).toEqual({ thrice: float32([3, 6], [2]) })
  })

  test('one that the graph does not have', async () => {
    await using session = await runtime.open(model)
    await expect(session.run({ x }, { fetch: ['once'] })).rejects.toThrow(
      /Graph 'test' has no output 'once'. Expected one of twice, thrice, same/,
    )
    const resident = await runtime.allocate('float32', [2])
    await expect(session.run({ x }, { store: { once: { ...resident, axis: 0, start: 0 } } })).rejects.toThrow(
      /no output 'once'/,
    )
    await runtime.release(resident)
  })
})

describe('resident tensors', () => {
  const model = doubling([2, 'n', 1])
  const pair = (n: number, first: number) =>
    float32(
      Array.from({ length: 2 * n }, (_, i) => first + i),
      [2, n, 1],
    )

  test('are filled along an axis, grown, fed, read and released', async () => {
    await using session = await runtime.open(model)
    const cache = await runtime.allocate('float32', [2, 3, 1])
    const store = (start: number) => ({ store: { y: { ...cache, axis: 1, start } } })
    expect(await session.run({ x: pair(1, 1) }, store(0))).toEqual({})
    await session.run({ x: pair(2, 10) }, store(1))
    expect(await runtime.read(cache)).toEqual(float32([2, 20, 22, 4, 24, 26], [2, 3, 1]))
    await runtime.resize(cache, 1, 4)
    expect(await runtime.read(cache)).toEqual(float32([2, 20, 22, 0, 4, 24, 26, 0], [2, 4, 1]))
    await runtime.resize(cache, 1, 2)
    expect((await session.run({ x: cache })).y).toEqual(float32([4, 40, 8, 48], [2, 2, 1]))
    await runtime.release(cache)
    await expect(runtime.read(cache)).rejects.toThrow(/Resident tensor \d+ does not exist: it was released/)
    await expect(session.run({ x: cache })).rejects.toThrow(/does not exist/)
  })

  test('an output that does not fit is an error and changes nothing', async () => {
    await using session = await runtime.open(model)
    const cache = await runtime.allocate('float32', [2, 2, 1])
    const integers = await runtime.allocate('int64', [2, 2, 1])
    const wide = await runtime.allocate('float32', [3, 2, 1])
    const stored = (x: typeof cache, start: number, n = 1, axis = 1) =>
      session.run({ x: pair(n, 1) }, { store: { y: { ...x, axis, start } } })
    await expect(stored(cache, 2)).rejects.toThrow(
      /Output 'y' float32\[2, 1, 1\] does not fit into the resident tensor float32\[2, 2, 1\] at 2 along axis 1/,
    )
    await expect(stored(cache, 0, 3)).rejects.toThrow(/does not fit/)
    await expect(stored(cache, -1)).rejects.toThrow(/does not fit/)
    await expect(stored(cache, 0, 1, 3)).rejects.toThrow(/does not fit/)
    await expect(stored(wide, 0)).rejects.toThrow(/does not fit/)
    await expect(stored(integers, 0)).rejects.toThrow(/does not fit/)
    await expect(runtime.resize(cache, 3, 1)).rejects.toThrow(/\[2, 2, 1\] has no axis 3/)
    await expect(runtime.resize(cache, 1, -1)).rejects.toThrow(/cannot get the length -1/)
    expect((await runtime.read(cache)).data).toEqual(new Float32Array(4))
  })

  test('calls happen in their order, without waiting between them', async () => {
    await using session = await runtime.open(model)
    const cache = await runtime.allocate('float32', [2, 1, 1])
    const run = session.run({ x: pair(1, 1) }, { store: { y: { ...cache, axis: 1, start: 0 } } })
    const [, read] = await Promise.all([run, runtime.read(cache), runtime.release(cache)])
    expect(read.data).toEqual(Float32Array.of(2, 4))
  })
})

describe('failures', () => {
  test('a run that ONNX Runtime refuses rejects, and the next one works', async () => {
    await using session = await runtime.open(lookup(), new Map([['table', float32([10, 20, 30], [3, 1])]]))
    await expect(session.run({ x: int64([7], [1]) })).rejects.toThrow(/^ONNX Runtime failed: .*out of/)
    expect((await session.run({ x: int64([2], [1]) })).y?.data).toEqual(Float32Array.of(30))
  })

  test('a model that is none', async () => {
    const broken = { ...doubling([1]), bytes: Uint8Array.of(1, 2, 3) }
    await expect(runtime.open(broken)).rejects.toThrow(/^ONNX Runtime failed: /)
  })

  test('a closed session', async () => {
    const session = await runtime.open(doubling([1]))
    await session.close()
    await session.close()
    await expect(session.run({ x: float32([1], [1]) })).rejects.toThrow(/The session of graph 'test' is closed/)
  })
})

describe('the event loop', () => {
  test('goes on during a run', async () => {
    await using session = await runtime.open(long(40))
    const order: string[] = []
    const run = session.run({ x: ones() }).then(() => order.push('run'))
    await new Promise<void>((resolve) => {
      setTimeout(() => {
        order.push('timer')
        resolve()
      }, 1)
    })
    await run
    expect(order).toEqual(['timer', 'run'])
  })
})

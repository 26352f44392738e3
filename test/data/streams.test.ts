import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { batchStream, epochBatches } from '../../src/data/batching.ts'
import { type Mixed, mixture } from '../../src/data/mixture.ts'
import { createRandom } from '../../src/data/random.ts'
import { mapStream, type ResumableStream } from '../../src/data/stream.ts'

const lengthLists = fc.array(fc.integer({ min: 1, max: 500 }), { minLength: 1, maxLength: 120 })
const batchSizes = fc.integer({ min: 1, max: 17 })

function take<Item>(stream: ResumableStream<Item>, count: number): Item[] {
  return Array.from({ length: count }, () => stream.next())
}

/** Through JSON, as a checkpoint would. */
const throughJson = <Value>(value: Value): Value => JSON.parse(JSON.stringify(value))

describe('an epoch of batches', () => {
  it('holds every item exactly once, in full batches but for one', () => {
    fc.assert(
      fc.property(
        lengthLists,
        batchSizes,
        fc.integer({ min: 1, max: 5 }),
        fc.nat(),
        (lengths, batchSize, pool, seed) => {
          const batches = epochBatches({ lengths, batchSize, poolBatches: pool }, createRandom(seed))
          expect(batches.flat().sort((a, b) => a - b)).toEqual(lengths.map((_, index) => index))
          expect(batches.length).toBe(Math.ceil(lengths.length / batchSize))
          const short = batches.filter((batch) => batch.length !== batchSize)
          expect(short.map((batch) => batch.length)).toEqual(
            lengths.length % batchSize === 0 ? [] : [lengths.length % batchSize],
          )
        },
      ),
    )
  })

  it('groups items of similar length, and shuffles the batches', () => {
    const random = createRandom(3)
    const lengths = Array.from({ length: 512 }, () => 10 + random.int(190))
    const batches = epochBatches({ lengths, batchSize: 8 }, createRandom(1))
    const longest = batches.map((batch) => Math.max(...batch.map((index) => lengths[index] ?? 0)))
    const padded = longest.reduce((sum, length) => sum + 8 * length, 0)
    const useful = lengths.reduce((sum, length) => sum + length, 0)
    expect(padded / useful).toBeLessThan(1.05)
    expect(longest).not.toEqual([...longest].sort((a, b) => a - b))
  })

  it('lets other items meet in each epoch', () => {
    const lengths = Array.from({ length: 60 }, () => 9)
    const stream = batchStream({ lengths, batchSize: 6, seed: 2 })
    const epoch = () => new Set(take(stream, 10).map((batch) => [...batch].sort().join()))
    const [first, second] = [epoch(), epoch()]
    expect([...first].filter((batch) => second.has(batch))).toEqual([])
  })

  it('refuses nothing to batch and a batch size of none', () => {
    expect(() => batchStream({ lengths: [], batchSize: 2, seed: 1 })).toThrow(/nothing to make batches from/)
    expect(() => epochBatches({ lengths: [1], batchSize: 0 }, createRandom(1))).toThrow(/batch size/)
  })
})

describe('a stream of batches', () => {
  it('gives every item once an epoch, for ever', () => {
    fc.assert(
      fc.property(lengthLists, batchSizes, fc.nat(), (lengths, batchSize, seed) => {
        const stream = batchStream({ lengths, batchSize, seed })
        for (let epoch = 0; epoch < 3; epoch++) {
          const indices = take(stream, Math.ceil(lengths.length / batchSize)).flat()
          expect(indices.sort((a, b) => a - b)).toEqual(lengths.map((_, index) => index))
        }
      }),
    )
  })

  it('continues identically from its state', () => {
    fc.assert(
      fc.property(lengthLists, batchSizes, fc.nat(), fc.nat(60), (lengths, batchSize, seed, skipped) => {
        const make = () =>
          mapStream(batchStream({ lengths, batchSize, seed }), (indices) => indices.map((i) => lengths[i]))
        const stream = make()
        take(stream, skipped)
        const state = throughJson(stream.state())
        const other = make()
        other.restore(state)
        expect(take(other, 40)).toEqual(take(stream, 40))
        expect(other.state()).toEqual(stream.state())
      }),
    )
  })

  it('refuses the state of other data, another seed, or nonsense', () => {
    const state = batchStream({ lengths: [1, 2, 3], batchSize: 2, seed: 1 }).state()
    for (const options of [
      { lengths: [1, 2, 4], batchSize: 2, seed: 1 },
      { lengths: [1, 2, 3], batchSize: 3, seed: 1 },
      { lengths: [1, 2, 3], batchSize: 2, seed: 2 },
    ]) {
      expect(() => batchStream(options).restore(state)).toThrow(/belongs to other data/)
    }
    for (const nonsense of [null, 'state', { epoch: 1 }, { ...Object(state), position: -1 }]) {
      expect(() => batchStream({ lengths: [1, 2, 3], batchSize: 2, seed: 1 }).restore(nonsense)).toThrow(
        /Got something else/,
      )
    }
  })
})

describe('a mixture', () => {
  const parts = (weights: readonly number[]) =>
    weights.map((weight, index) => ({
      name: `task-${index}`,
      weight,
      stream: batchStream({ lengths: Array.from({ length: 5 + index }, (_, i) => i + 1), batchSize: 2, seed: index }),
    }))

  it('draws its parts by weight', () => {
    const stream = mixture({ parts: parts([6, 3, 1]), seed: 4 })
    const names = take(stream, 5000).map((drawn) => drawn.name)
    const share = (name: string) => names.filter((other) => other === name).length / names.length
    expect(share('task-0')).toBeCloseTo(0.6, 1)
    expect(share('task-1')).toBeCloseTo(0.3, 1)
    expect(Math.abs(share('task-2') - 0.1)).toBeLessThan(0.02)
  })

  it('continues identically from its state, seeds included', () => {
    const weights = fc.array(fc.integer({ min: 1, max: 9 }), { minLength: 1, maxLength: 4 })
    fc.assert(
      fc.property(weights, fc.nat(), fc.nat(40), (list, seed, skipped) => {
        const stream: ResumableStream<Mixed<readonly number[]>> = mixture({ parts: parts(list), seed })
        take(stream, skipped)
        const other = mixture({ parts: parts(list), seed })
        other.restore(throughJson(stream.state()))
        expect(take(other, 30)).toEqual(take(stream, 30))
      }),
    )
  })

  it('gives every part its epochs in full', () => {
    const stream = mixture({ parts: parts([2, 1]), seed: 9 })
    const items = take(stream, 60).filter((drawn) => drawn.name === 'task-0')
    // Five items in batches of two: three batches an epoch.
    for (let epoch = 0; epoch < 3; epoch++) {
      const indices = items.slice(3 * epoch, 3 * epoch + 3).flatMap((drawn) => drawn.item)
      expect(indices.sort()).toEqual([0, 1, 2, 3, 4])
    }
  })

  it('gives each draw a seed of its own', () => {
    const seeds = take(mixture({ parts: parts([1]), seed: 1 }), 500).map((drawn) => drawn.seed)
    expect(new Set(seeds).size).toBe(500)
  })

  it('refuses weights of none, doubled names, no parts and the state of other tasks', () => {
    expect(() => mixture({ parts: parts([1, 0]), seed: 1 })).toThrow(/weight of task "task-1"/)
    expect(() => mixture({ parts: [...parts([1]), ...parts([1])], seed: 1 })).toThrow(/named "task-0"/)
    expect(() => mixture({ parts: [], seed: 1 })).toThrow(/mixture is empty/)
    const two = mixture({ parts: parts([1, 1]), seed: 1 })
    expect(() => two.restore(mixture({ parts: parts([1]), seed: 1 }).state())).toThrow(/another mixture of tasks/)
  })
})

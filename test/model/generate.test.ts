import { describe, expect, test } from 'vitest'
import {
  type GenerateOptions,
  type GenerationPrompt,
  generate,
  generateTokens,
  type LanguageModel,
} from '../../src/model/generate.ts'

const VOCABULARY = 12
const STOP = 11
const PAD = 0

/**
 * A language model whose logits are a function of a row's tokens alone, and that records what it was asked.
 * @param logitsOf Logits of the token that follows these.
 */
function fakeModel(logitsOf: (ids: readonly number[]) => ArrayLike<number>, maxPositions = 100) {
  const calls = { started: 0, appended: [] as number[][], closed: 0 }
  const model: LanguageModel = {
    maxPositions,
    async start(prompts) {
      calls.started++
      const rows = prompts.map(({ ids }) => [...ids])
      return {
        get logits() {
          return rows.map((ids) => Float32Array.from(logitsOf(ids)))
        },
        async append(tokens) {
          calls.appended.push([...tokens])
          tokens.forEach((token, row) => void rows[row]?.push(token))
        },
        async close() {
          calls.closed++
        },
        async [Symbol.asyncDispose]() {
          calls.closed++
        },
      }
    },
    async close() {},
    async [Symbol.asyncDispose]() {},
  }
  return { model, calls }
}

const oneHot = (token: number) => Array.from({ length: VOCABULARY }, (_, at) => (at === token ? 5 : 0))
/** Always the next number after the last one. */
const counting = (ids: readonly number[]) => oneHot(((ids.at(-1) ?? 0) + 1) % VOCABULARY)
/** Some smooth distribution that depends on every token. */
const mixed = (ids: readonly number[]) =>
  Array.from({ length: VOCABULARY }, (_, at) =>
    Math.sin(at * 3 + ids.reduce((sum, id, place) => sum + id * (place + 1), 0)),
  )

const promptsOf = (...rows: number[][]): GenerationPrompt[] => rows.map((ids) => ({ ids }))
const options: GenerateOptions = { maxNewTokens: 6, stopIds: [STOP], padId: PAD }

describe('greedy generation', () => {
  test('goes on with each row of a batch until its stop token, which is its last', async () => {
    const { model, calls } = fakeModel(counting)
    const rows = await generate(model, promptsOf([7], [3, 9], [1, 1, 1]), undefined, options)
    expect(rows).toEqual([
      [8, 9, 10, 11],
      [10, 11],
      [2, 3, 4, 5, 6, 7],
    ])
    // ended rows are fed padding, and the last token is not read back in
    expect(calls.appended).toEqual([
      [8, 10, 2],
      [9, 11, 3],
      [10, PAD, 4],
      [11, PAD, 5],
      [PAD, PAD, 6],
    ])
    expect(calls.closed).toBe(1)
  })

  test('stops as soon as every row has ended', async () => {
    const { model, calls } = fakeModel(counting)
    expect(await generate(model, promptsOf([9], [10]), undefined, { ...options, maxNewTokens: 50 })).toEqual([
      [10, 11],
      [11],
    ])
    expect(calls.appended).toHaveLength(1)
    expect(await generate(model, promptsOf([9]), undefined, { ...options, stopIds: [3, 10] })).toEqual([[10]])
  })

  test('takes the first of equally likely tokens', async () => {
    const { model } = fakeModel(() => [0, 2, 2, 1])
    expect(await generate(model, promptsOf([1]), undefined, { ...options, maxNewTokens: 2 })).toEqual([[1, 1]])
  })

  test('of no prompts is nothing, and starts nothing', async () => {
    const { model, calls } = fakeModel(counting)
    expect(await generate(model, [], undefined, options)).toEqual([])
    expect(calls.started).toBe(0)
  })
})

describe('room', () => {
  test('a continuation ends at the longest sequence that the model takes', async () => {
    const { model } = fakeModel(counting, 8)
    expect(await generate(model, promptsOf([1, 1, 1, 1, 1], [1]), undefined, options)).toEqual([
      [2, 3, 4],
      [2, 3, 4],
    ])
  })

  test('a prompt that leaves no room is an error that says how much there is', async () => {
    const { model, calls } = fakeModel(counting, 8)
    await expect(generate(model, promptsOf([1], new Array(8).fill(1)), undefined, options)).rejects.toThrow(
      /prompt of 8 tokens leaves no room.*at most 7 tokens.*fewer documents/,
    )
    expect(calls.started).toBe(0)
    expect(await generate(model, promptsOf(new Array(7).fill(1)), undefined, options)).toEqual([[2]])
  })

  test('a number of new tokens that is no positive integer is an error', async () => {
    const { model, calls } = fakeModel(counting)
    for (const maxNewTokens of [0, -1, 1.5, Number.NaN]) {
      const wrong = generate(model, promptsOf([1]), undefined, { ...options, maxNewTokens })
      await expect(wrong).rejects.toThrow(/maxNewTokens is out of range.*integer of at least 1/)
    }
    expect(calls.started).toBe(0)
  })
})

describe('sampled generation', () => {
  const sampling = { temperature: 1.5, seed: 4 }
  const long = { ...options, stopIds: [], maxNewTokens: 20 }

  test('repeats with the same seed and differs with another', async () => {
    const { model } = fakeModel(mixed)
    const once = await generate(model, promptsOf([1, 2]), undefined, { ...long, sampling })
    expect(await generate(model, promptsOf([1, 2]), undefined, { ...long, sampling })).toEqual(once)
    expect(
      await generate(model, promptsOf([1, 2]), undefined, { ...long, sampling: { ...sampling, seed: 5 } }),
    ).not.toEqual(once)
  })

  test('of a row does not depend on its neighbours', async () => {
    const { model } = fakeModel(mixed)
    const [first, second] = await generate(model, promptsOf([1, 2], [3, 4, 5]), undefined, { ...long, sampling })
    const [alone] = await generate(model, promptsOf([1, 2]), undefined, { ...long, sampling })
    const [, besideOther] = await generate(model, promptsOf([9], [3, 4, 5], [6]), undefined, { ...long, sampling })
    expect(alone).toEqual(first)
    expect(besideOther).toEqual(second)
    // equal prompts beside each other do not say the same
    const [left, right] = await generate(model, promptsOf([1, 2], [1, 2]), undefined, { ...long, sampling })
    expect(left).not.toEqual(right)
  })
})

describe('an abort', () => {
  test('in the middle stops before the next token and closes the continuation', async () => {
    const { model, calls } = fakeModel(counting)
    const controller = new AbortController()
    const seen: unknown[] = []
    const run = async () => {
      for await (const tokens of generateTokens(model, promptsOf([1]), undefined, {
        ...options,
        signal: controller.signal,
      })) {
        seen.push(tokens)
        if (seen.length === 2) controller.abort(new Error('enough'))
      }
    }
    await expect(run()).rejects.toThrow('enough')
    expect(seen).toEqual([[2], [3]])
    expect(calls.closed).toBe(1)
  })

  test('before the start reads no prompt', async () => {
    const { model, calls } = fakeModel(counting)
    const signal = AbortSignal.abort(new Error('never mind'))
    await expect(generate(model, promptsOf([1]), undefined, { ...options, signal })).rejects.toThrow('never mind')
    expect(calls.started).toBe(0)
  })

  test('is not needed: leaving the loop closes the continuation too', async () => {
    const { model, calls } = fakeModel(counting)
    for await (const _ of generateTokens(model, promptsOf([1]), undefined, options)) break
    expect(calls.closed).toBe(1)
  })

  test('a continuation that fails is closed, and the failure is told', async () => {
    const { model, calls } = fakeModel((ids) => {
      if (ids.length > 2) throw new Error('broken')
      return counting(ids)
    })
    await expect(generate(model, promptsOf([1]), undefined, options)).rejects.toThrow('broken')
    expect(calls.closed).toBe(1)
  })
})

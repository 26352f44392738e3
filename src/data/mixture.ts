import { z } from 'zod'
import { ClaraError } from '../errors.ts'
import { createRandom, deriveSeed } from './random.ts'
import type { JsonValue, ResumableStream } from './stream.ts'

/** One task's share of the mixture. */
export interface MixturePart<Item> {
  readonly name: string
  /** Relative frequency, above 0; weights need not sum to one. */
  readonly weight: number
  readonly stream: ResumableStream<Item>
}

/** An item of a mixture. */
export interface Mixed<Item> {
  /** The part it came from. */
  readonly name: string
  readonly item: Item
  /** Derived from (mixture seed, ordinal): feed it to `createRandom` for every choice made while building the batch. */
  readonly seed: number
}

const mixtureState = z.strictObject({
  drawn: z.number().int().nonnegative(),
  parts: z.record(z.string(), z.json()),
})

/** Several streams mixed by weight: each draw picks a part at random, from (seed, ordinal), so the state stays small. */
export function mixture<Item>(options: {
  readonly parts: readonly MixturePart<Item>[]
  readonly seed: number
}): ResumableStream<Mixed<Item>> {
  const { parts, seed } = options
  const last = parts.at(-1)
  if (last === undefined) throw new ClaraError('The mixture is empty.', { expected: 'at least one task' })
  const total = parts.reduce((sum, part) => sum + part.weight, 0)
  for (const { name, weight } of parts) {
    if (!(weight > 0) || !Number.isFinite(weight)) {
      throw new ClaraError(`The weight of task "${name}" is not usable.`, {
        expected: 'a number above 0',
        received: `${weight}`,
      })
    }
    if (parts.filter((part) => part.name === name).length > 1) {
      throw new ClaraError(`Two parts of the mixture are named "${name}".`, { expected: 'a name of its own for each' })
    }
  }
  let drawn = 0

  const pick = (fraction: number): MixturePart<Item> => {
    let rest = fraction * total
    for (const part of parts) {
      rest -= part.weight
      if (rest < 0) return part
    }
    // Rounding can leave a hair above zero after the last part.
    return last
  }

  return {
    next() {
      const itemSeed = deriveSeed(seed, drawn)
      const part = pick(createRandom(itemSeed).uniform())
      const item = part.stream.next()
      drawn += 1
      return { name: part.name, item, seed: deriveSeed(itemSeed, 1) }
    },
    state() {
      const states: Record<string, JsonValue> = {}
      for (const part of parts) states[part.name] = part.stream.state()
      return { drawn, parts: states }
    },
    restore(state) {
      const saved = mixtureState.safeParse(state)
      const names = parts.map((part) => part.name).sort()
      const savedNames = saved.success ? Object.keys(saved.data.parts).sort() : []
      if (!saved.success || names.join('\n') !== savedNames.join('\n')) {
        throw new ClaraError('The saved position in the training data belongs to another mixture of tasks.', {
          expected: `the tasks ${names.join(', ')}`,
          received: saved.success ? savedNames.join(', ') : 'something else',
          hint: 'Resume with the same data settings, or start a new run.',
        })
      }
      for (const part of parts) part.stream.restore(saved.data.parts[part.name] ?? null)
      drawn = saved.data.drawn
    },
  }
}

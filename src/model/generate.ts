import { ClaraError } from '../errors.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { createSampler, type SamplingOptions } from './sampling.ts'

/** One prompt: token ids, and which rows of the batch's memory stand in the place of some of them. */
export interface GenerationPrompt {
  readonly ids: readonly number[]
  /** Row of the memory for each position, -1 where the token's own embedding stands. Default: no memory. */
  readonly memoryRows?: readonly number[]
}

/** A batch of texts being written. Knows token ids only. */
export interface Continuation extends AsyncDisposable {
  /** Logits of the next token of every row, [rows][vocabulary]. */
  readonly logits: readonly Float32Array[]
  /** Appends one token to every row and computes the logits of the next. */
  append(tokens: readonly number[]): Promise<void>
  close(): Promise<void>
}

/** A language model that continues prompts. */
export interface LanguageModel extends AsyncDisposable {
  /** Longest sequence, prompt and continuation together. */
  readonly maxPositions: number
  /** Reads prompts of possibly unequal lengths. `memory` is [memories, hidden_size]. */
  start(prompts: readonly GenerationPrompt[], memory?: HostTensor): Promise<Continuation>
  close(): Promise<void>
}

export interface GenerateOptions {
  readonly maxNewTokens: number
  /** Tokens that end a row; they are part of the result. */
  readonly stopIds: readonly number[]
  /** What finished rows are fed while others go on. */
  readonly padId: number
  readonly sampling?: SamplingOptions
  readonly signal?: AbortSignal
}

/**
 * Continues prompts token by token: yields, per step, the new token of every row, undefined for rows that have ended.
 * @throws The signal's reason when it aborts; ClaraError when a prompt leaves no room for an answer, or none is wanted.
 */
export async function* generateTokens(
  model: LanguageModel,
  prompts: readonly GenerationPrompt[],
  memory: HostTensor | undefined,
  options: GenerateOptions,
): AsyncGenerator<readonly (number | undefined)[], void, undefined> {
  if (!(Number.isInteger(options.maxNewTokens) && options.maxNewTokens >= 1)) {
    throw new ClaraError('The setting maxNewTokens is out of range.', {
      expected: 'an integer of at least 1',
      received: String(options.maxNewTokens),
    })
  }
  if (prompts.length === 0) return
  const longest = Math.max(...prompts.map(({ ids }) => ids.length))
  if (longest + 1 > model.maxPositions) {
    throw new ClaraError(`A prompt of ${longest} tokens leaves no room for an answer.`, {
      expected: `at most ${model.maxPositions - 1} tokens`,
      hint: 'Use fewer documents, or a higher compression.',
    })
  }
  const steps = Math.min(options.maxNewTokens, model.maxPositions - longest)
  // a row's samples do not depend on its neighbours
  const samplers = prompts.map((_, row) =>
    createSampler({ ...options.sampling, seed: (options.sampling?.seed ?? 0) + row }),
  )
  const ended = prompts.map(() => false)
  options.signal?.throwIfAborted()
  await using continuation = await model.start(prompts, memory)
  for (let step = 0; step < steps; step++) {
    options.signal?.throwIfAborted()
    const tokens = continuation.logits.map((logits, row) => (ended[row] ? undefined : samplers[row]?.(logits)))
    yield tokens
    tokens.forEach((token, row) => {
      if (token !== undefined && options.stopIds.includes(token)) ended[row] = true
    })
    if (ended.every(Boolean) || step + 1 === steps) return
    await continuation.append(tokens.map((token) => token ?? options.padId))
  }
}

/** All tokens at once, one list a row; a stop token is its last. */
export async function generate(
  model: LanguageModel,
  prompts: readonly GenerationPrompt[],
  memory: HostTensor | undefined,
  options: GenerateOptions,
): Promise<number[][]> {
  const rows: number[][] = prompts.map(() => [])
  for await (const tokens of generateTokens(model, prompts, memory, options)) {
    tokens.forEach((token, row) => {
      if (token !== undefined) rows[row]?.push(token)
    })
  }
  return rows
}

/** What JSON can hold; the state of every stream is one of these, so that a training checkpoint can carry it. */
export type JsonValue =
  | null
  | boolean
  | number
  | string
  | readonly JsonValue[]
  | { readonly [key: string]: JsonValue | undefined }

/**
 * An endless, deterministic sequence that can stop and go on: `restore(state())` on a stream built the same way gives
 * the identical continuation.
 */
export interface ResumableStream<Item> {
  next(): Item
  state(): JsonValue
  /** @throws ClaraError when the state comes from a stream over other data. */
  restore(state: JsonValue): void
}

/** The same stream with every item passed through a pure function. */
export function mapStream<Item, Result>(
  stream: ResumableStream<Item>,
  transform: (item: Item) => Result,
): ResumableStream<Result> {
  return {
    next: () => transform(stream.next()),
    state: () => stream.state(),
    restore: (state) => stream.restore(state),
  }
}

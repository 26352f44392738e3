import type { JsonValue } from '../data/stream.ts'
import type { NamedArrays } from './optimizer.ts'

/** What the gradient of a micro-batch is asked for with. */
export interface GradientOptions {
  /** Labelled tokens of the whole step: the token losses' sum is divided by it, not by the micro-batch's own count. */
  readonly normaliser: number
  /** The micro-batch's share of the step's samples: the weight of terms that are means over samples. */
  readonly share: number
  /** For dropout; derived from (run seed, step, micro-batch). */
  readonly seed: number
  /** Abandons the computation. */
  readonly signal?: AbortSignal
}

export interface LossAndGradients {
  /** This micro-batch's contribution to the step's loss: already divided, contributions are summed. */
  readonly loss: number
  /** Parts of the loss by name, for the metrics; summed likewise. */
  readonly terms: Readonly<Record<string, number>>
  /** One entry for every parameter. The trainer reads them before it asks for the next micro-batch and never writes. */
  readonly gradients: NamedArrays
}

/** All that the trainer knows of a model. */
export interface TrainableModel<Batch> {
  /** Updated in place. */
  readonly parameters: NamedArrays
  /** Positions of the batch that carry a label (or rows, for losses by row). */
  labelledTokens(batch: Batch): number
  samples(batch: Batch): number
  /** Loss and gradient of a micro-batch, a pure function of parameters, batch and options. */
  lossAndGradients(batch: Batch, options: GradientOptions): Promise<LossAndGradients>
  /** Called after every change of the parameters, for models that keep copies elsewhere. */
  afterUpdate?(changed: NamedArrays): Promise<void>
}

/** An endless source of batches that can stop and go on (`ResumableStream` is one). */
export interface BatchSource<Batch> {
  next(): Batch | Promise<Batch>
  state(): JsonValue
  restore(state: JsonValue): void
}

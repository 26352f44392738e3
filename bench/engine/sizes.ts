/** What one step of stage 1 works on. */
export interface TrainingSizes {
  readonly batchSize: number
  /** Positions of the compressor, memory tokens among them. */
  readonly documentPositions: number
  readonly memoryTokens: number
  /** Positions of the generator, memory slots and labels among them. */
  readonly promptPositions: number
  /** Labelled positions of a sample. */
  readonly labels: number
}

/** How much each measurement does. */
export interface EngineSizes {
  readonly training: TrainingSizes
  /** Rows and columns of the products that tell the peak. */
  readonly matmul: number
  /** Size of the tensor whose sum tells the read bandwidth. */
  readonly readMebibytes: number
  /** Passages that are compressed, and the text tokens of each. */
  readonly documents: number
  readonly documentTokens: number
  /** Text tokens per memory token in the published configuration. */
  readonly comprRate: number
  /** Tokens of one measured stretch of an answer. */
  readonly newTokens: number
  /** Documents that a question is asked over. */
  readonly documentsPerQuestion: number
}

export const fullSizes: EngineSizes = {
  training: { batchSize: 8, documentPositions: 144, memoryTokens: 32, promptPositions: 128, labels: 40 },
  matmul: 1024,
  readMebibytes: 1024,
  documents: 64,
  documentTokens: 128,
  comprRate: 4,
  newTokens: 64,
  documentsPerQuestion: 5,
}

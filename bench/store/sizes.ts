/** How much the store's measurements do. */
export interface StoreSizes {
  /** Passages that are compressed; the rest is made from them. */
  readonly realPassages: number
  /** Passages of the store that is compared with brute force. */
  readonly passages: number
  /** Questions that it is searched with. */
  readonly questions: number
  /** Passages of the smaller and the larger store whose search times are compared, and questions asked of each. */
  readonly growth: readonly [small: number, large: number]
  readonly growthQuestions: number
  /** Passages whose answers are scored from int8 and from float32 memory. */
  readonly lossPassages: number
  /** Rows written at a time. */
  readonly batch: number
}

export const fullStoreSizes: StoreSizes = {
  realPassages: 3_000,
  passages: 100_000,
  questions: 200,
  growth: [10_000, 1_000_000],
  growthQuestions: 100,
  lossPassages: 64,
  batch: 4_096,
}

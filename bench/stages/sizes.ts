import type { Settings } from '../../src/training/settings.ts'

/** How much each measurement does. */
export interface StagesSizes {
  /** Different batches that a round goes through. */
  readonly batches: number
  /** Questions of a step of stage 2, documents that each chooses from, and those that the generator reads. */
  readonly questions: number
  readonly poolSize: number
  readonly topK: number
  /** Rows of a step of stage 1. */
  readonly rows: number
  /** Over the settings of the preset 'small', which are the embedded model's. */
  readonly settings: Settings
}

export const fullSizes: StagesSizes = { batches: 3, questions: 4, poolSize: 20, topK: 5, rows: 4, settings: {} }

/** How much the measurements of adding do. */
export interface IngestSizes {
  /** Real passages that are added, each a document. */
  readonly passages: number
  /** Files that the folder which is added twice has, and passages of each. */
  readonly files: number
  readonly passagesPerFile: number
  /** Passages that a process adds of which the memory is measured: few and many. */
  readonly peak: readonly [few: number, many: number]
}

export const fullIngestSizes: IngestSizes = {
  passages: 1_000,
  files: 200,
  passagesPerFile: 5,
  peak: [2_000, 20_000],
}

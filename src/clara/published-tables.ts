/** The embedding and the head of a published checkpoint against those of its base. */
import type { WeightSource } from '../checkpoint/weights.ts'
import { ClaraError } from '../errors.ts'
import type { HostTensor } from '../graph/dtype.ts'
import { EMBEDDING, HEAD } from './network.ts'

/** The checkpoint's side of the comparison. */
export interface CheckpointTables {
  readonly folder: string
  /** [vocabulary, hidden_size], CLaRa's tokens included. */
  readonly embedding: HostTensor
  /** Undefined where it is the embedding. */
  readonly head: HostTensor | undefined
  /** Tokens of the base, whose rows come first. */
  readonly baseVocabulary: number
}

/** Two rows nearer than this share of their length are one row, trained or rounded. Rows of other models are about 1.4 apart. */
const nearRows = 0.5

/**
 * The tables of a checkpoint whose rows of ordinary tokens are not the base's to the bit. The published code trains memory tokens alone,
 * so there are none, unless the base is kept in another precision.
 *
 * @throws ClaraError when most rows have nothing to do with the base's: the adapters belong to another base.
 */
export async function ownTables(
  tables: CheckpointTables,
  base: Pick<WeightSource, 'path' | 'read'>,
): Promise<ReadonlyMap<string, HostTensor>> {
  const own = new Map<string, HostTensor>()
  for (const [name, table] of [
    [EMBEDDING, tables.embedding],
    [HEAD, tables.head],
  ] as const) {
    if (!table) continue
    const { same, far } = compareRows(table, await base.read(name), tables.baseVocabulary)
    if (far > tables.baseVocabulary / 2) {
      throw new ClaraError(`The adapters in "${tables.folder}" belong to another base model than "${base.path}".`, {
        expected: `"${name}" to hold the base's rows`,
        received: `${far} of ${tables.baseVocabulary} rows that are others`,
        hint: "Give the base that the checkpoint's decoder_model_name means.",
      })
    }
    if (!same) own.set(name, table)
  }
  return own
}

/** Whether the first rows are equal, and how many have nothing in common. */
function compareRows(table: HostTensor, base: HostTensor, rows: number): { same: boolean; far: number } {
  const [ours, theirs] = [table.data as Float32Array, base.data as Float32Array]
  const width = table.dims[1] ?? 1
  let same = (base.dims[0] ?? 0) >= rows
  let far = 0
  for (let row = 0; row < rows; row++) {
    let [distance, length] = [0, 0]
    for (let at = row * width; at < (row + 1) * width; at++) {
      const [a = 0, b = 0] = [ours[at], theirs[at]]
      distance += (a - b) ** 2
      length += b ** 2
    }
    // a row that is no number is not the same either
    if (distance !== 0) same = false
    if (distance > nearRows ** 2 * length) far += 1
  }
  return { same, far }
}

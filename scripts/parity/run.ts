import { compareCompression } from './compression.ts'
import { compareEncoder, compareIdsOnly } from './encoding.ts'
import { compareAnswers, compareParaphrases, compareQuestions } from './generation.ts'
import { openParity, type Parity } from './model.ts'
import type { Result } from './report.ts'
import { compareStage2 } from './stage2.ts'
import { compareCurve, compareStage } from './stages.ts'
import { compareTopK } from './topk.ts'

/** A quantity of a folder, and the comparison that belongs to it. */
type Group = readonly [quantity: string, compare: (parity: Parity) => void | Promise<void>]

const groups: readonly Group[] = [
  ['docs', compareEncoder],
  ['ids_only', compareIdsOnly],
  ['compress.memory', compareCompression],
  ['stage1_qa', (parity) => compareStage(parity, 'stage1_qa')],
  ['stage1_paraphrase', (parity) => compareStage(parity, 'stage1_paraphrase')],
  ['stage1_2', (parity) => compareStage(parity, 'stage1_2')],
  ['train10', compareCurve],
  ['topk', compareTopK],
  ['stage2', (parity) => parity.stage2 && compareStage2(parity, parity.stage2, 'stage2')],
  [
    'stage2_pretrain_retrieval',
    (parity) => parity.stage2 && compareStage2(parity, parity.stage2, 'stage2_pretrain_retrieval'),
  ],
  ['generate_from_text', compareAnswers],
  ['generate_from_paraphrase', compareParaphrases],
  ['generate_from_questions', (parity) => parity.stage2 && compareQuestions(parity, parity.stage2)],
]

/**
 * Compares one folder of numbers from the published code with what this repository computes from the same files. Quantities
 * that the folder lacks are left out; those that nothing is compared with are listed.
 *
 * @throws ClaraError when the folder or its checkpoint cannot be read, or the base model is of an unknown family.
 */
export async function compareFolder(folder: string): Promise<Result> {
  await using parity = await openParity(folder)
  const { fixture, report } = parity
  for (const [quantity, compare] of groups) {
    if (!fixture.has(quantity)) continue
    try {
      await compare(parity)
    } catch (error) {
      // one broken group does not hide the others
      report.fail(quantity, error instanceof Error ? error.message : String(error))
    }
  }
  if (report.rows.length === 0) report.fail('all', 'the folder holds nothing to compare with')
  return { folder, rows: report.rows, notCovered: fixture.unused() }
}

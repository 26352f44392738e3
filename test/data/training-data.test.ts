import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { loadTrainingData } from '../../src/data/training-data.ts'

test('rows of the published files become what the stages learn from', async () => {
  const folder = await mkdtemp(join(tmpdir(), 'clara-training-data-'))
  try {
    const path = join(folder, 'mixed.jsonl')
    const rows = [
      { data_type: 'qa', question: ['Q1?', 'Q2?'], answers: ['a1', 'a2'], docs: ['D'] },
      { data_type: 'paraphrase', question: '', answers: ['otherwise'], docs: ['D'] },
      { question: 'Q3?', docs: ['D', 'E'], gold_answer: 'a3', pos_index: [1] },
      { question: 'Q4?', docs: ['D', 'E'], answer: 'a4' },
      { question: ['Q5?'], docs: ['D', 'E'], answers: ['a5'], pos_index: [] },
    ]
    await writeFile(path, rows.map((row) => `${JSON.stringify(row)}\n`).join(''))
    const candidates = (...supporting: boolean[]) =>
      ['D', 'E'].map((text, index) => ({ title: '', text, supporting: supporting[index] }))
    expect(await loadTrainingData(path)).toEqual({
      passages: [
        {
          text: 'D',
          free: true,
          qa: [
            { question: 'Q1?', answers: ['a1'] },
            { question: 'Q2?', answers: ['a2'] },
          ],
        },
      ],
      paraphrases: [{ text: 'D', paraphrase: 'otherwise' }],
      pools: [
        { question: 'Q3?', answers: ['a3'], candidates: candidates(false, true) },
        // nobody says which documents are needed, so all are
        { question: 'Q4?', answers: ['a4'], candidates: candidates(true, true) },
        { question: 'Q5?', answers: ['a5'], candidates: candidates(false, false) },
      ],
    })
  } finally {
    await rm(folder, { recursive: true })
  }
})

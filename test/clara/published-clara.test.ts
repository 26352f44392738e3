import { readFileSync } from 'node:fs'
import { expect, it } from 'vitest'
import { Clara } from '../../src/clara/clara.ts'

it.each(['mistral-1', 'llama-3'])('a published checkpoint (%s) answers as the published code does', async (name) => {
  const folder = `test/fixtures/parity/${name}`
  const cases = JSON.parse(readFileSync(`${folder}/cases.json`, 'utf8'))
  const { questions, documents, answers, max_new_tokens: maxNewTokens } = cases.generate_from_text
  await using clara = await Clara.load(`${folder}/checkpoint`, { weights: 'fp32' })
  const trimmed = answers.map((answer: string) => answer.trim())
  expect(await clara.generateFromText(questions, documents, { maxNewTokens })).toEqual(trimmed)
  const memories = await Promise.all(documents.map((list: string[]) => clara.compressDocuments(list)))
  const swapped = memories.flat().reverse()
  const perQuestion = documents.map((list: string[]) => swapped.splice(0, list.length))
  const expected = cases.generate_from_swapped.answers.map((answer: string) => answer.trim())
  expect(await clara.generateFromCompressedDocumentsAndQuestions(questions, perQuestion, { maxNewTokens })).toEqual(
    expected,
  )
})

it.each(['mistral-1', 'llama-3'])(
  'a published stage 2 checkpoint (%s) retrieves and answers as the published code does',
  async (name) => {
    const folder = `test/fixtures/parity/${name}`
    const { generate_from_questions: expected } = JSON.parse(readFileSync(`${folder}/cases.json`, 'utf8'))
    await using clara = await Clara.load(`${folder}/checkpoint-stage2`, { weights: 'fp32' })
    const topK = expected.topk_idx[0].length
    const results = await clara.generateFromQuestions(expected.questions, expected.documents, {
      topK,
      maxNewTokens: 24,
    })
    expect(results.map(({ documents }) => documents)).toEqual(expected.topk_idx)
    expect(results.map(({ answer }) => answer)).toEqual(expected.answers.map((answer: string) => answer.trim()))
  },
)

it('a model whose memory has a fixed length refuses another compression rate', async () => {
  await using clara = await Clara.load('test/fixtures/parity/mistral-1/checkpoint', { weights: 'fp32' })
  const own = clara.model.config.compr_rate
  const [memory] = await clara.compressDocuments(['A fox.'])
  expect(await clara.compressDocuments(['A fox.'], { rate: own })).toEqual([memory])
  await expect(clara.compressDocuments(['A fox.'], { rate: own + 1 })).rejects.toThrow(
    /same number of memory tokens.*its own rate/,
  )
})

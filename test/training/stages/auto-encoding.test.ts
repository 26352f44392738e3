import { afterAll, beforeAll, expect, test } from 'vitest'
import { stageMaterial } from '../../../src/training/stages/material.ts'
import { type TinyData, tinyData } from './tiny-run.ts'

let data: TinyData
beforeAll(async () => {
  data = await tinyData()
})
afterAll(() => data[Symbol.asyncDispose]())

/** The texts that rows of one epoch are labelled with, and those their documents hold. */
async function epoch(file: string, rows: number, settings: Record<string, unknown> = {}, without?: string[]) {
  const source = { file, task: 'auto-encoding', ...(without ? { without } : {}) }
  const { batches, tokenizer, texts } = await stageMaterial(
    data.config({ data: [source], batchSize: 1, maxLength: 400, ...settings }),
  )
  const decode = (ids: readonly number[]) => tokenizer.decode(ids, { skipSpecials: true }).trim()
  const seen = Array.from({ length: rows }, () => {
    const { rows: batch, documents } = batches.next()
    expect([batch.length, documents.length]).toEqual([1, 1])
    const [row, document] = [batch[0], documents[0]]
    if (!row || !document) throw new Error('an empty batch')
    return {
      label: decode(row.labels.map(({ target }) => target)),
      document: decode(document.ids.slice(...document.text)),
    }
  })
  return { seen, texts }
}

test('auto-encoding asks for the very text that the memory was made of', async () => {
  const { seen, texts } = await epoch(`${data.folder}/passages.jsonl`, 6, { docMaxLength: 200 })
  expect(new Set(seen.map(({ label }) => label))).toEqual(new Set(texts))
  expect(texts).toContain('A red fox lived under the old mill.')
  for (const { label, document } of seen) expect(document).toBe(label)
})

test('a long text is repeated stretch by stretch, every stretch once', async () => {
  const words = Array.from({ length: 40 }, (_, index) => `w${index}`).join(' ')
  const record = { id: 'long', text: words, qa: [{ question: 'Q?', answers: ['w1'] }] }
  const file = await data.write('long.jsonl', JSON.stringify(record))
  const { tokenizer } = await stageMaterial(data.config({ data: [{ file, task: 'auto-encoding' }] }))
  const count = Math.ceil(tokenizer.encode(words).length / 24)
  expect(count).toBeGreaterThan(2)
  const { seen } = await epoch(file, count, { docMaxLength: 24 })
  const joined = seen.map(({ label }) => label.replaceAll(' ', ''))
  expect(joined.reduce((sum, label) => sum + label.length, 0)).toBe(words.replaceAll(' ', '').length)
  for (const label of joined) expect(words.replaceAll(' ', '')).toContain(label)
})

test("a pool's candidates are repeated with their titles, each once, less those of the files left out", async () => {
  const pool = (id: string, texts: readonly string[]) =>
    JSON.stringify({
      id,
      question: 'Q?',
      answers: ['A'],
      candidates: texts.map((text) => ({ title: text.slice(0, 3), text, supporting: true })),
    })
  const file = await data.write(
    'train.jsonl',
    `${pool('a', ['Oslo one.', 'Bern two.'])}\n${pool('b', ['Bern two.', 'Rome three.'])}\n`,
  )
  const dev = await data.write('dev.jsonl', pool('c', ['Rome three.']))
  const all = await epoch(file, 3, { docMaxLength: 200 })
  expect(new Set(all.texts)).toEqual(new Set(['Osl: Oslo one.', 'Ber: Bern two.', 'Rom: Rome three.']))
  const some = await epoch(file, 2, { docMaxLength: 200 }, [dev])
  expect(new Set(some.seen.map(({ label }) => label))).toEqual(new Set(['Osl: Oslo one.', 'Ber: Bern two.']))
})

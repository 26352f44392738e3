import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { z } from 'zod'
import { loadJsonLines, readJsonLines } from '../../src/data/jsonl.ts'
import { paraphraseSchema, passageSchema, poolQuestionSchema } from '../../src/data/schemas.ts'
import { ClaraError } from '../../src/errors.ts'

let folder: string
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'clara-jsonl-'))
})
afterAll(() => rm(folder, { recursive: true, force: true }))

async function file(name: string, content: string | Uint8Array): Promise<string> {
  const path = join(folder, name)
  await writeFile(path, content)
  return path
}

const record = z.object({ text: z.string() })

describe('reading JSON lines', () => {
  it('gives back what was written, plain or compressed, whatever the text', async () => {
    const texts = fc.array(fc.string({ unit: 'binary', maxLength: 60 }), { maxLength: 30 })
    await fc.assert(
      fc.asyncProperty(texts, fc.boolean(), fc.constantFrom('\n', '\r\n', '\n\n'), async (list, compressed, end) => {
        const records = list.map((text) => ({ text }))
        const content = records.map((entry) => JSON.stringify(entry)).join(end)
        const path = compressed ? await file('any.jsonl.gz', gzipSync(content)) : await file('any.jsonl', content)
        expect(await loadJsonLines(path, record)).toEqual(records)
      }),
      { numRuns: 40 },
    )
  })

  it('joins lines that span many reads', async () => {
    const records = Array.from({ length: 5 }, (_, index) => ({ text: String(index).repeat(700_000) }))
    const path = await file('long.jsonl', records.map((entry) => JSON.stringify(entry)).join('\n'))
    expect(await loadJsonLines(path, record)).toEqual(records)
  })

  it('reads a line at a time: an early stop never sees later faults', async () => {
    const path = await file('lazy.jsonl', '{"text":"first"}\nnot JSON\n')
    for await (const entry of readJsonLines(path, record)) {
      expect(entry.text).toBe('first')
      break
    }
    await expect(loadJsonLines(path, record)).rejects.toThrow(ClaraError)
  })

  const good = '{"text":"fine"}\n'
  it.each<[string, string | Uint8Array, RegExp]>([
    ['not JSON', `${good}\n{"text": oops}\n`, /bad\.jsonl:3: the line is not JSON.*oops/],
    ['invalid UTF-8', Buffer.concat([Buffer.from(good), Buffer.from([0x22, 0xff, 0xfe, 0x22])]), /:2: .*UTF-8/],
    ['a missing column', `${good}{"title":"x"}\n`, /:2: .*"text"/],
    ['a column of another type', `${good}{"text":5}\n`, /:2: .*"text".*string/],
    ['not an object', `${good}[1,2]\n`, /:2: .*the record/],
    [
      'too long a line',
      `${good}{"text":"${'x'.repeat(2000)}"}`,
      /:2: the line is too long. Expected at most 1000 bytes/,
    ],
    ['too large a file', good.repeat(400), /bad\.jsonl: the file is too large/],
  ])('names file and line: %s', async (_, content, message) => {
    const failed = loadJsonLines(await file('bad.jsonl', content), record, { lineBytes: 1000, totalBytes: 5000 })
    await expect(failed).rejects.toThrow(ClaraError)
    await expect(failed).rejects.toThrow(message)
  })

  it('stops a small archive that unpacks to too much', async () => {
    const path = await file('bomb.jsonl.gz', gzipSync(good.repeat(100_000)))
    await expect(loadJsonLines(path, record, { totalBytes: 100_000 })).rejects.toThrow(/too large/)
    const oneLine = await file('line-bomb.jsonl.gz', gzipSync(Buffer.alloc(5_000_000, 0x20)))
    await expect(loadJsonLines(oneLine, record, { lineBytes: 1_000_000 })).rejects.toThrow(/:1: the line is too long/)
  })

  it('tells a damaged archive from a missing file', async () => {
    const whole = gzipSync(Array.from({ length: 500 }, (_, i) => JSON.stringify({ text: `${i * 7919}` })).join('\n'))
    const cut = await file('cut.jsonl.gz', whole.subarray(0, whole.length - 40))
    await expect(loadJsonLines(cut, record)).rejects.toThrow(
      /cut\.jsonl\.gz:\d+: the gzip stream is damaged or cut short/,
    )
    const plain = await file('plain.jsonl.gz', good)
    await expect(loadJsonLines(plain, record)).rejects.toThrow(/plain\.jsonl\.gz:1: the gzip stream is damaged/)
    await expect(loadJsonLines(join(folder, 'none.jsonl'), record)).rejects.toThrow(/none\.jsonl: .*ENOENT/)
    await expect(loadJsonLines(join(folder, 'none.jsonl.gz'), record)).rejects.toThrow(/none\.jsonl\.gz: .*ENOENT/)
    await expect(loadJsonLines(folder, record)).rejects.toThrow(/EISDIR/)
  })
})

describe('the datasets of this repository', () => {
  const path = (name: string) => join(import.meta.dirname, '..', '..', 'datasets', `${name}.jsonl.gz`)

  it.each([
    ['squad.dev', passageSchema, 315],
    ['paraphrase.dev', paraphraseSchema, 429],
    ['hotpotqa.dev', poolQuestionSchema, 212],
    ['2wiki.dev', poolQuestionSchema, 70],
    ['musique.dev', poolQuestionSchema, 47],
    ['nq.dev', poolQuestionSchema, 292],
  ] as const)('%s fits its schema, with the rows that its description counts', async (name, schema, rows) => {
    expect(await loadJsonLines<z.ZodType>(path(name), schema)).toHaveLength(rows)
  })

  it('passages carry their questions, pools their supporting passages', async () => {
    const passages = await loadJsonLines(path('squad.dev'), passageSchema)
    expect(passages.reduce((sum, passage) => sum + passage.qa.length, 0)).toBe(1282)
    const questions = await loadJsonLines(path('musique.dev'), poolQuestionSchema)
    for (const { candidates } of questions) expect(candidates.some((candidate) => candidate.supporting)).toBe(true)
  })

  it('records without questions, answers or candidates are refused', () => {
    const passage = { id: 'a', text: 'b', qa: [{ question: 'q', answers: ['x'] }] }
    expect(passageSchema.safeParse(passage).success).toBe(true)
    expect(passageSchema.safeParse({ ...passage, qa: [] }).success).toBe(false)
    expect(passageSchema.safeParse({ ...passage, qa: [{ question: 'q', answers: [] }] }).success).toBe(false)
    expect(paraphraseSchema.safeParse({ text: 'a', paraphrase: '' }).success).toBe(false)
    expect(poolQuestionSchema.safeParse({ id: 'a', question: 'q', answers: ['x'], candidates: [] }).success).toBe(false)
  })
})

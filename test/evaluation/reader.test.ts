import { mkdtempSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import type { Clara } from '../../src/clara/clara.ts'
import { evaluateReader, readerQuestions } from '../../src/evaluation/reader.ts'
import { evaluateRetrieval } from '../../src/evaluation/retrieval.ts'

/** A stand-in whose memory is its text: it answers with all the words that it was shown. */
function readingClara(docMaxLength: number): Clara {
  const words = (text: string) => text.split(' ')
  const codes = (text: string) => Float32Array.from(text, (letter) => letter.charCodeAt(0))
  const text = (memory: { tokens: Float32Array }) => String.fromCharCode(...memory.tokens)
  const vocabulary: string[] = []
  const stand = {
    model: {
      config: { doc_max_length: docMaxLength },
      tokenizer: {
        encode: (of: string) => words(of).map((word) => vocabulary.push(word) - 1),
        decode: (ids: number[]) => ids.map((id) => vocabulary[id]).join(' '),
      },
    },
    compressDocuments: async (documents: string[]) =>
      documents.map((of) => ({ tokens: codes(of), shape: [of.length, 1] })),
    compressQuestions: async (questions: string[]) =>
      questions.map((of) => ({ tokens: codes(of), shape: [of.length, 1] })),
    score: (question: { tokens: Float32Array }, document: { tokens: Float32Array }) =>
      words(text(question)).filter((word) => words(text(document)).includes(word)).length,
    generateFromFullText: async (_: string[], documents: string[][]) => documents.map((list) => list.join(' ')),
    generateFromCompressedDocumentsAndQuestions: async (questions: string[], memories: { tokens: Float32Array }[][]) =>
      questions.map((_question, index) => (memories[index] ?? []).map(text).join(' ')),
  }
  return stand as unknown as Clara
}

async function file(lines: readonly object[]): Promise<string> {
  const path = join(mkdtempSync(join(tmpdir(), 'clara-reader-')), 'data.jsonl')
  await writeFile(path, lines.map((line) => JSON.stringify(line)).join('\n'))
  return path
}

const passage = (id: number, text: string, answer: string) => ({
  id: `p${id}`,
  text,
  qa: [{ question: `q${id}`, answers: [answer] }],
})

it('asks only what the compressor can have read, one question a passage', async () => {
  const clara = readingClara(3)
  const path = await file([
    passage(0, 'red green blue black', 'green'),
    passage(1, 'one two three four', 'four'),
    passage(2, 'north south', 'south'),
  ])
  const questions = await readerQuestions(path, 10, clara)
  expect(questions.map(({ question, text }) => [question, text])).toEqual([
    ['q0', 'red green blue'],
    ['q2', 'north south'],
  ])
})

it('tells the modes apart: own memory and text hold the answer, another memory and none do not', async () => {
  const clara = readingClara(9)
  const path = await file([passage(0, 'red', 'red'), passage(1, 'green', 'green'), passage(2, 'blue', 'blue')])
  const questions = await readerQuestions(path, 3, clara)
  const f1 = async (mode: 'memory' | 'wrongMemory' | 'noMemory' | 'fullText') =>
    (await evaluateReader(clara, questions, mode)).f1
  expect([await f1('memory'), await f1('fullText'), await f1('wrongMemory'), await f1('noMemory')]).toEqual([
    1, 1, 0, 0,
  ])
  expect((await evaluateReader(clara, questions, 'wrongMemory')).answers).toEqual(['green', 'blue', 'red'])
})

it('measures recall of the latent ranking beside BM25 on the same candidates', async () => {
  const candidates = (gold: string) => [
    { title: '', text: 'the sea is wide', supporting: false },
    { title: '', text: gold, supporting: true },
  ]
  const path = await file([
    { id: '1', question: 'who drew maps', answers: ['x'], candidates: candidates('who drew the maps') },
    { id: '2', question: 'is the sea wide', answers: ['x'], candidates: candidates('unrelated words here') },
  ])
  const { latent, bm25 } = await evaluateRetrieval(readingClara(9), path, 2)
  expect(latent).toEqual({ questions: 2, recallAt1: 0.5, recallAt5: 1 })
  expect(bm25).toEqual({ questions: 2, recallAt1: 0.5, recallAt5: 1 })
})

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
      config: { doc_max_length: docMaxLength, generation_top_k: 2 },
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
  const questions = await readerQuestions(path, 10, clara.model)
  expect(questions.map(({ question, documents, answer }) => [question, documents, answer])).toEqual([
    ['q0', ['red green blue'], 'green'],
    ['q2', ['north south'], 'south'],
  ])
})

it('tells the modes apart: own memory and text hold the answer, another memory and none do not', async () => {
  const clara = readingClara(9)
  const path = await file([passage(0, 'red', 'red'), passage(1, 'green', 'green'), passage(2, 'blue', 'blue')])
  const questions = await readerQuestions(path, 3, clara.model)
  const f1 = async (mode: 'memory' | 'wrongMemory' | 'noMemory' | 'fullText') =>
    (await evaluateReader(clara, questions, mode)).f1
  expect([await f1('memory'), await f1('fullText'), await f1('wrongMemory'), await f1('noMemory')]).toEqual([
    1, 1, 0, 0,
  ])
  expect((await evaluateReader(clara, questions, 'wrongMemory')).answers).toEqual(['green', 'blue', 'red'])
})

it('asks questions with candidates over those that support the answer, if it was not cut away', async () => {
  const pool = (question: string, answers: string[], texts: [text: string, supporting: boolean][]) => ({
    id: question,
    question,
    answers,
    candidates: texts.map(([text, supporting]) => ({ title: 'T', text, supporting })),
  })
  const texts = (...supporting: boolean[]) =>
    supporting.map((each, index): [string, boolean] => [`in ${index} far north`, each])
  const path = await file([
    pool('where', ['north', '1'], texts(true, true, false)),
    pool('how far', ['far'], texts(false, true)),
    pool('is it', ['yes'], texts(false, true)),
    pool('what', ['in 1'], texts(true, true, true)),
    pool('nothing', ['far'], texts(false)),
  ])
  // a title and two words fit
  const questions = await readerQuestions(path, 10, readingClara(3).model)
  expect(questions.map(({ question, documents, answer }) => [question, documents, answer])).toEqual([
    ['where', ['T: in 0', 'T: in 1'], '1'],
    ['is it', ['T: in 1'], 'yes'],
    ['what', ['T: in 0', 'T: in 1'], 'in 1'],
  ])
})

it('shows several documents in one prompt, and all of another question for wrong ones', async () => {
  const question = (name: string, ...documents: string[]) => ({
    question: name,
    answers: [documents.join(' ')],
    answer: '',
    documents,
  })
  const questions = [question('a', 'red', 'green'), question('b', 'blue')]
  const answers = async (mode: 'memory' | 'wrongMemory' | 'fullText' | 'noMemory') =>
    (await evaluateReader(readingClara(9), questions, mode)).answers
  expect(await answers('memory')).toEqual(['red green', 'blue'])
  expect(await answers('fullText')).toEqual(['red green', 'blue'])
  expect(await answers('wrongMemory')).toEqual(['blue', 'red green'])
  expect(await answers('noMemory')).toEqual(['', ''])
})

it('ranks the same candidates by query reasoner, compressor and BM25', async () => {
  const candidates = (gold: string) => [
    { title: '', text: 'the sea is wide', supporting: false },
    { title: '', text: gold, supporting: true },
  ]
  const path = await file([
    { id: '1', question: 'who drew maps', answers: ['x'], candidates: candidates('who drew the maps') },
    { id: '2', question: 'is the sea wide', answers: ['x'], candidates: candidates('unrelated words here') },
    { id: '3', question: 'unjudged', answers: ['x'], candidates: candidates('unjudged').slice(0, 1) },
  ])
  const clara = readingClara(9)
  // a reasoner that turns every question into the text that it should find
  const reasoner = { ...clara, compressQuestions: () => clara.compressDocuments(['maps words']) } as unknown as Clara
  const { queryReasoner, ...others } = await evaluateRetrieval(reasoner, path, { count: 3 })
  const half = { recallAt1: 0.5, recallAt5: 1, meanReciprocalRank: 0.75 }
  expect(queryReasoner).toEqual({ recallAt1: 1, recallAt5: 1, meanReciprocalRank: 1 })
  expect(others).toEqual({ questions: 2, compressor: half, bm25: half })
  const unjudged = await file([{ id: '1', question: 'q', answers: ['x'], candidates: candidates('g').slice(0, 1) }])
  await expect(evaluateRetrieval(clara, unjudged, { count: 3 })).rejects.toThrow(/has a supporting candidate/)
})

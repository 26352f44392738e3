import { join } from 'node:path'
import { Clara } from '../../src/clara/clara.ts'
import { KnowledgeBase } from '../../src/knowledge/knowledge-base.ts'
import type { KnowledgeModel } from '../../src/knowledge/model.ts'
import { milliseconds } from '../measure.ts'

export interface OverheadFigures {
  /** Share of the time that is not the model's. */
  readonly overhead: number
  readonly passagesPerSecond: number
}

/** Time in everything but the model while passages are added, against all of it. */
export async function measureOverhead(
  model: string,
  texts: readonly string[],
  threads: number,
  work: string,
): Promise<OverheadFigures> {
  await using clara = await Clara.load(model, { threads })
  let inModel = 0
  const timed: KnowledgeModel = {
    model: clara.model,
    async compressDocuments(documents, options) {
      const started = performance.now()
      const memories = await clara.compressDocuments(documents, options)
      inModel += performance.now() - started
      return memories
    },
    compressQuestions: (questions, options) => clara.compressQuestions(questions, options),
    score: (question, document) => clara.score(question, document),
    streamAnswer: (question, memories, options) => clara.streamAnswer(question, memories, options),
    streamFullTextAnswer: (question, documents, options) => clara.streamFullTextAnswer(question, documents, options),
    promptTokens: (question, source) => clara.promptTokens(question, source),
  }
  // what is loaded and prepared once is not what an add costs
  await clara.compressDocuments(texts.slice(0, 32))
  await using knowledge = await KnowledgeBase.open(join(work, 'overhead'), { clara: timed })
  await knowledge.add([{ id: 'first', text: 'The first document makes the store.' }])
  inModel = 0
  const documents = texts.map((text, index) => ({ id: `d${index}`, text }))
  let passages = 0
  const total = await milliseconds(async () => {
    passages = (await knowledge.add(documents)).compressed
  })
  return { overhead: 1 - inModel / total, passagesPerSecond: (1000 * passages) / total }
}

import { z } from 'zod'
import {
  filterFlags,
  modelFlags,
  printSources,
  requireStore,
  searchFlags,
  searchOptions,
  sourceReport,
  storeFlags,
  withKnowledge,
} from './knowledge.ts'
import type { VerbContext } from './verb.ts'

export const summary = 'Find the passages that fit a question'

export const options = z.strictObject({
  question: z.string().describe('The question'),
  ...storeFlags,
  ...searchFlags,
  ...filterFlags,
  ...modelFlags,
})

export const positionals = ['question']

export async function run(values: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const { question, store } = values
  const search = searchOptions(values, context)
  await requireStore(store)
  const sources = await withKnowledge(values, context, (knowledge) => {
    context.status('searching')
    return knowledge.search(question, search)
  })
  printSources(sources, context)
  if (sources.length === 0) {
    context.note('Nothing relevant was found.')
    context.end('nothing')
  }
  context.report({ question, store, sources: sources.map(sourceReport) })
}

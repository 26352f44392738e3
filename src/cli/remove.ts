import { z } from 'zod'
import { storeFlags } from './knowledge.ts'
import type { VerbContext } from './verb.ts'

export const summary = 'Remove documents from the knowledge base'

export const options = z.strictObject({
  documents: z
    .array(z.string())
    .min(1)
    .describe('Documents by their id, by the file that they were read from, or by the folder that it lies in'),
  ...storeFlags,
})

export const positionals = ['documents']

export async function run(
  { documents: wanted, store: place }: z.infer<typeof options>,
  context: VerbContext,
): Promise<void> {
  const [{ openExistingStore }, { removePaths }] = await Promise.all([
    import('../knowledge/place.ts'),
    import('../knowledge/remove.ts'),
  ])
  await using store = await openExistingStore(place)
  const { documents, chunks } = await removePaths(store, wanted)
  if (documents === 0) {
    context.note('No such document is stored.')
    context.end('nothing')
  } else context.print(`${documents} documents, ${chunks} passages, were removed.`)
  context.report({ store: place, documents, chunks })
}

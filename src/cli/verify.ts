import { z } from 'zod'
import { storeFlags } from './knowledge.ts'
import { printable } from './terminal.ts'
import type { VerbContext } from './verb.ts'

export const summary = 'Read the whole knowledge base and compare it with its checksums'

export const options = z.strictObject({
  ...storeFlags,
  repair: z
    .boolean()
    .default(false)
    .describe('Remove what is damaged; adding the documents that are named again completes them'),
})

export const positionals = ['store']

export async function run({ store: place, repair }: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const { openExistingStore } = await import('../knowledge/place.ts')
  await using store = await openExistingStore(place)
  context.status('reading')
  const { rows, damaged } = await store.verify({ repair })
  for (const { id, documentId, problem } of damaged)
    context.print(printable(`${id ?? documentId ?? 'unknown'}: ${problem}`))
  context.print(
    `${rows} passages were read, ${damaged.length === 0 ? 'all sound' : `${damaged.length} problems found`}.`,
  )
  if (damaged.length > 0) {
    context.note(
      repair
        ? 'What was damaged is removed: add these documents again.'
        : 'Mend it with --repair, then add these documents again.',
    )
    context.end('failed')
  }
  context.report({ store: place, rows, damaged, repaired: repair && damaged.length > 0 })
}

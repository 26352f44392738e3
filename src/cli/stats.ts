import { z } from 'zod'
import { storeFlags } from './knowledge.ts'
import { printable } from './terminal.ts'
import { formatBytes } from './transfer.ts'
import type { VerbContext } from './verb.ts'

export const summary = 'Tell what is in the knowledge base'

export const options = z.strictObject({ ...storeFlags })

export const positionals = ['store']

export async function run({ store: place }: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const [{ openExistingStore }, { statsOf }] = await Promise.all([
    import('../knowledge/place.ts'),
    import('../knowledge/stats.ts'),
  ])
  await using store = await openExistingStore(place)
  const stats = await statsOf(store, place)
  const { documents, incomplete, files, chunks, bytes, memory, driver, index, fingerprint } = stats
  const row = (name: string, text: string) => context.print(printable(`${name.padEnd(12)}${text}`))
  row('store', `${stats.place} (${driver})`)
  row('documents', `${documents}${incomplete === 0 ? '' : `, and ${incomplete} that are incomplete: add them again`}`)
  row('files', `${files}`)
  row('passages', `${chunks}`)
  row('size', `${formatBytes(bytes)}${chunks === 0 ? '' : `, ${formatBytes(bytes / chunks)} a passage`}`)
  row('memory', memory)
  row('index', `${index.kind}${index.unindexed === 0 ? '' : `, ${index.unindexed} passages not in it yet`}`)
  if (index.problem !== undefined) row('', `the last attempt to build it failed: ${index.problem}`)
  row('model', fingerprint.slice(0, 16))
  context.report(stats)
}

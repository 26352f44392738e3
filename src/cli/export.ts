import { z } from 'zod'
import { storeFlags } from './knowledge.ts'
import { printable } from './terminal.ts'
import type { VerbContext } from './verb.ts'

export const summary = 'Write the knowledge base into a Parquet file'

export const options = z.strictObject({
  output: z.string().describe('File to write'),
  ...storeFlags,
})

export const positionals = ['output']

export async function run({ output, store: place }: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const [{ openExistingStore }, { exportStore }] = await Promise.all([
    import('../knowledge/place.ts'),
    import('../store/parquet.ts'),
  ])
  await using store = await openExistingStore(place)
  context.status('writing')
  const chunks = await exportStore(store, output)
  context.print(`${chunks} passages are in ${printable(output)}.`)
  context.report({ store: place, output, chunks })
}

import { z } from 'zod'
import { storeFlags } from './knowledge.ts'
import { printable } from './terminal.ts'
import type { VerbContext } from './verb.ts'

export const summary = 'Read an exported knowledge base, without compressing anything again'

export const options = z.strictObject({
  file: z.string().describe('A Parquet file that clara export wrote'),
  ...storeFlags,
})

export const positionals = ['file']

export async function run({ file, store: place }: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const { importInto } = await import('../knowledge/transfer.ts')
  context.status('reading')
  const chunks = await importInto(place, file)
  context.print(`${chunks} passages of ${printable(file)} are in ${printable(place)}.`)
  context.report({ store: place, file, chunks })
}

import { z } from 'zod'
import type { Synced } from '../knowledge/options.ts'
import * as add from './add.ts'
import { addProgress, modelFacts, printAdded, withKnowledge } from './knowledge.ts'
import { printable } from './terminal.ts'
import type { VerbContext } from './verb.ts'

export const summary = 'Add what is new or changed, and remove what is gone'

export const options = z.strictObject({
  ...add.options.shape,
  watch: z.boolean().default(false).describe('Then wait for changes in the folders, and follow them until interrupted'),
})

export const positionals = ['inputs']

export async function run(values: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const { measureInputs } = await import('../knowledge/measure.ts')
  const { inputs, store, overlap, watch } = values
  const { signal } = context
  const reading = add.readingOptions(values)
  const print = (result: Synced) => {
    printAdded(result, store, context)
    const { documents, chunks } = result.removed
    if (documents > 0) context.print(`${documents} documents whose files are gone, ${chunks} passages, were removed.`)
    return result
  }
  const done = watch ? undefined : await unchanged(values, context)
  if (done !== undefined) {
    context.report({ store, ...print(done) })
    return
  }
  await withKnowledge(values, context, async (knowledge) => {
    const sync = async (some: readonly string[]) => {
      const onProgress = addProgress(context, await measureInputs(some, reading, signal))
      return print(await knowledge.sync(some, { ...reading, overlap, signal, onProgress }))
    }
    const result = await sync(inputs).catch((error: unknown) => {
      if (signal.aborted) context.note('What was stored is kept: the same command goes on from there.')
      throw error
    })
    if (watch) await follow(inputs, reading, context, sync)
    context.report({ store, ...result })
  })
}

/** A sync that has nothing to compress: no model is loaded for it. */
async function unchanged(values: z.infer<typeof options>, context: VerbContext): Promise<Synced | undefined> {
  const facts = values.memory === undefined ? await modelFacts(values) : undefined
  if (facts === undefined) return undefined
  const { syncWithoutModel } = await import('../knowledge/unchanged.ts')
  const { inputs, store, overlap } = values
  return syncWithoutModel(store, inputs, { ...add.readingOptions(values), overlap, signal: context.signal }, facts)
}

/** Syncs folders again whenever something in them changes. */
async function follow(
  inputs: readonly string[],
  reading: ReturnType<typeof add.readingOptions>,
  context: VerbContext,
  sync: (inputs: readonly string[]) => Promise<unknown>,
): Promise<void> {
  const [{ watchFolder }, { stat }] = await Promise.all([import('../ingestion/watch.ts'), import('node:fs/promises')])
  const { signal } = context
  const folders: string[] = []
  for (const input of inputs)
    if (
      await stat(input).then(
        (facts) => facts.isDirectory(),
        () => false,
      )
    )
      folders.push(input)
  if (folders.length === 0) {
    const { ClaraError } = await import('../errors.ts')
    throw new ClaraError('There is nothing to watch.', { expected: 'at least one folder' })
  }
  context.note(`Watching ${folders.map(printable).join(', ')}; Ctrl-C ends it.`)
  const { include, exclude, hidden, ignoreFiles, followLinks } = reading
  let last: Promise<unknown> = Promise.resolve()
  const watching = folders.map(async (folder) => {
    const rules = { include, exclude, hidden, ignoreFiles, followLinks }
    // what has not changed costs next to nothing, so the whole folder is looked through: by one set of rules, whatever changed
    for await (const _ of watchFolder(folder, { ...rules, signal })) {
      last = last.then(() => sync([folder]))
      await last
    }
  })
  try {
    await Promise.all(watching)
  } catch (error) {
    if (!signal.aborted) throw error
  }
}

import { z } from 'zod'
import { addProgress, fileFlags, modelFacts, modelFlags, printAdded, storeFlags, withKnowledge } from './knowledge.ts'
import { settingsSchema } from './settings.ts'
import type { VerbContext } from './verb.ts'

export const summary = 'Add files, folders and web pages to the knowledge base'

export const options = z.strictObject({
  inputs: z
    .array(z.string())
    .min(1)
    .describe('Files, folders, globs in quotes, web addresses (with --allow-network), or - for standard input'),
  ...storeFlags,
  ...fileFlags,
  reader: z
    .enum(['text', 'markdown', 'html', 'pdf', 'docx', 'csv', 'jsonl', 'code'])
    .optional()
    .describe('Read every file this way. Default: by its name, else by its content'),
  idField: z.string().optional().describe("Column or key of a record's id, in CSV and JSON lines. Default: id or _id"),
  textField: z
    .array(z.string())
    .default([])
    .describe("Column or key of a record's text. Default: text, content, body and the like"),
  titleField: z.string().optional().describe("Column or key of a record's title. Default: title, name and the like"),
  overlap: settingsSchema.shape.overlap,
  memory: settingsSchema.shape.memory,
  ...modelFlags,
})

export const positionals = ['inputs']

export async function run(values: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const { measureInputs } = await import('../knowledge/measure.ts')
  const { inputs, store, overlap } = values
  const { signal } = context
  const reading = readingOptions(values)
  const result =
    (await unchanged(values, context)) ??
    (await withKnowledge(values, context, async (knowledge) => {
      const onProgress = addProgress(context, await measureInputs(inputs, reading, signal))
      return knowledge.addFiles(inputs, { ...reading, overlap, signal, onProgress }).catch((error: unknown) => {
        if (signal.aborted) context.note('What was stored is kept: the same command goes on from there.')
        throw error
      })
    }))
  printAdded(result, store, context)
  context.report({ store, ...result })
}

/** What adding files reports that are all as they were: no model is loaded for them. */
async function unchanged(values: z.infer<typeof options>, context: VerbContext) {
  const facts = values.memory === undefined ? await modelFacts(values) : undefined
  if (facts === undefined) return undefined
  const { addWithoutModel } = await import('../knowledge/unchanged.ts')
  const { inputs, store, overlap } = values
  return addWithoutModel(store, inputs, { ...readingOptions(values), overlap, signal: context.signal }, facts)
}

export function readingOptions(values: Omit<z.infer<typeof options>, 'store' | 'memory'>) {
  const { include, exclude, hidden, ignoreFiles, followLinks, allowNetwork, reader, idField, textField, titleField } =
    values
  const [first, ...more] = textField
  const fields = {
    ...(idField === undefined ? {} : { id: idField }),
    ...(first === undefined ? {} : { text: more.length === 0 ? first : textField }),
    ...(titleField === undefined ? {} : { title: titleField }),
  }
  return {
    include,
    exclude,
    hidden,
    ignoreFiles,
    followLinks,
    allowNetwork,
    fields,
    ...(reader === undefined ? {} : { reader }),
  }
}

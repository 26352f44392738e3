import { z } from 'zod'
import type { HostTensor } from '../graph/dtype.ts'
import { modelFlags } from './knowledge.ts'
import type { VerbContext } from './verb.ts'
import { weightOptions } from './weights.ts'

export const summary = 'Compress text files into memory tokens'

export const options = z.strictObject({
  files: z.array(z.string()).min(1).describe('Text files (UTF-8) to compress'),
  output: z.string().describe('File to write, in safetensors format'),
  rate: z
    .number()
    .min(1)
    .optional()
    .describe(
      "Text positions per memory token, where the model lets memory follow the text's length. Default: the model's own rate",
    ),
  ...modelFlags,
})

export const positionals = ['files']

/** Passages compressed at a time; between them progress shows and an interruption takes effect. */
const BATCH = 32

/**
 * Writes one float32 tensor [memory tokens, hidden_size] for every passage, named by its id (`FILE#0`, …), and the passages themselves
 * (id, file, start, end, text) as JSON under `passages` in the file's metadata, with the model's fingerprint beside.
 */
export async function run(values: z.infer<typeof options>, context: VerbContext): Promise<void> {
  const [{ Clara }, { passagesOf, placeOf }, { readDocuments }, { writeSafetensors }] = await Promise.all([
    import('../clara/clara.ts'),
    import('../knowledge/chunks.ts'),
    import('../knowledge/files.ts'),
    import('../checkpoint/safetensors.ts'),
  ])
  const documents = await readDocuments(values.files, { signal: context.signal })
  context.status('loading the model')
  await using clara = await Clara.load(values.model, { base: values.base, ...weightOptions(values, context) })
  const { tokenizer, config, fingerprint } = clara.model
  const count = (text: string) => tokenizer.encode(text).length
  const passages = documents.flatMap((document) => [
    ...passagesOf(document, { maxTokens: config.doc_max_length, count, settings: '' }),
  ])
  const tensors = new Map<string, HostTensor>()
  let memoryTokens = 0
  for (let start = 0; start < passages.length; start += BATCH) {
    context.status(`compressing: passage ${start} of ${passages.length}`)
    const batch = passages.slice(start, start + BATCH)
    const memories = await clara.compressDocuments(
      batch.map(({ text }) => text),
      { signal: context.signal, ...(values.rate === undefined ? {} : { rate: values.rate }) },
    )
    batch.forEach(({ id }, index) => {
      const memory = memories[index]
      if (!memory) return
      memoryTokens += memory.shape[0]
      tensors.set(id, { dtype: 'float32', dims: memory.shape, data: memory.tokens })
    })
  }
  const listed = passages.map((passage) => {
    const { start, end } = placeOf(passage).place
    return { id: passage.id, file: passage.documentId, start, end, text: passage.text }
  })
  await writeSafetensors(values.output, tensors, {
    format: 'clara-ts memories',
    fingerprint,
    passages: JSON.stringify(listed),
  })
  const textTokens = passages.reduce((sum, { text }) => sum + count(text), 0)
  const bytes = [...tensors.values()].reduce((sum, { data }) => sum + data.byteLength, 0)
  context.print(
    `${passages.length} passages of ${documents.length} files: ${textTokens} text tokens became ${memoryTokens} memory tokens, ${bytes} bytes, in ${values.output}.`,
  )
  context.report({
    output: values.output,
    files: documents.length,
    passages: passages.length,
    textTokens,
    memoryTokens,
    bytes,
    fingerprint,
  })
}

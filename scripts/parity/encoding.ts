import { z } from 'zod'
import { claraTokens, encodeDocument } from '../../src/clara/prompts.ts'
import { loadTokenizer } from '../../src/tokenizer/load.ts'
import type { Fixture } from './fixture.ts'
import { encodeText, leftPad, type Parity } from './model.ts'

/** As many of the folder's documents as a tensor has rows: the others only serve as inputs elsewhere. */
export function comparedTexts(fixture: Fixture, tensor: string): string[] {
  return fixture.value('docs', z.array(z.string())).slice(0, fixture.tensor(tensor).dims[0])
}

/** Sizes that the folder states, and the ids and masks of documents. */
export function compareEncoder({ fixture, report, stage1 }: Parity): void {
  report.exact('n_mem', stage1.memory.count, fixture.value('n_mem', z.number()))
  report.exact('doc_max_length', stage1.config.doc_max_length, fixture.value('doc_max_length', z.number()))
  report.exact('compr_rate', stage1.config.compr_rate, fixture.value('compr_rate', z.number()))
  report.exact('lora_r', stage1.lora.rank, fixture.value('lora_r', z.number()))
  report.exact('lora_alpha', stage1.lora.alpha, fixture.value('lora_alpha', z.number()))
  for (const name of ['arch', 'seed']) fixture.value(name, z.unknown())

  const { tokenizer, config, memory } = stage1
  const rows = comparedTexts(fixture, 'encoder.input_ids').map((text) => encodeText(stage1, text).ids)
  const width = config.doc_max_length + 3 + memory.count
  report.exact('encoder.input_ids', leftPad(rows, tokenizer.padId, width), fixture.rows('encoder.input_ids'))
  report.exact(
    'encoder.attention_mask',
    leftPad(
      rows.map((row) => row.map(() => 1)),
      0,
      width,
    ),
    fixture.rows('encoder.attention_mask'),
  )
}

const idsOnly = z.object({
  same_mem_tokens: z.object({ document: z.string(), ids: z.array(z.number()) }),
  query_dependent: z.object({
    documents: z.array(z.string()),
    questions: z.array(z.string()),
    ids: z.array(z.array(z.number())),
    attention_mask: z.array(z.array(z.number())),
  }),
})

/** Settings that the checkpoint does not use: one repeated memory token, and compression with regard to a question. */
export async function compareIdsOnly({ fixture, report, stage1 }: Parity): Promise<void> {
  const { same_mem_tokens: same, query_dependent: asked } = fixture.value('ids_only', idsOnly)
  const { tokenizer, config, memory, baseFolder } = stage1
  const docMaxLength = config.doc_max_length

  const repeated = { count: memory.count, differentMemTokens: false }
  const other = (await loadTokenizer(baseFolder)).withAddedTokens(claraTokens(repeated))
  const { ids } = encodeDocument(other, same.document, { docMaxLength, memory: repeated, specials: 'parse' })
  report.exact('ids_only.same_mem_tokens', leftPad([ids], other.padId, same.ids.length)[0], same.ids)

  const rows = asked.documents.map((text, index) => {
    const query = asked.questions[index] ?? ''
    return encodeDocument(tokenizer, text, { docMaxLength, memory, query, specials: 'parse' }).ids
  })
  const width = docMaxLength + 8 + memory.count
  const masks = rows.map((row) => row.map(() => 1))
  report.exact('ids_only.query_dependent.ids', leftPad(rows, tokenizer.padId, width), asked.ids)
  report.exact('ids_only.query_dependent.attention_mask', leftPad(masks, 0, width), asked.attention_mask)
}

import { readIsolated } from '../isolated.ts'
import { tooLarge } from '../source.ts'
import type { Reader } from './reader.ts'

/** Files up to this are handed over; the other process opens larger ones itself, so that there is one copy of them. */
const LARGEST_HANDED_OVER = 16 * 1024 * 1024

/**
 * PDF: its text with pages, bookmarks as headings. Words that are divided at the end of a line are joined. Without text (scanned),
 * encrypted or damaged ones are errors. Texts whose fonts need one of Adobe's predefined tables of characters (some in Chinese, Japanese, Korean) have none here.
 */
export const pdfReader: Reader = {
  name: 'pdf',
  extensions: ['pdf'],
  mediaTypes: ['application/pdf'],
  async *read(input, { limits, signal }) {
    const { file, name, stat } = input
    if (file !== undefined && stat && stat.size > LARGEST_HANDED_OVER) {
      if (stat.size > limits.pdfBytes) throw tooLarge(name, limits.pdfBytes, stat.size)
      const { sha256 } = await input.finish()
      yield await readIsolated({ kind: 'pdf', file, sha256 }, limits, name, signal)
      return
    }
    yield await readIsolated({ kind: 'pdf', bytes: await input.bytes(limits.pdfBytes) }, limits, name, signal)
  },
}

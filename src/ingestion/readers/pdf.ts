import { jobFor, readIsolated } from '../isolated.ts'
import type { Reader } from './reader.ts'

/**
 * PDF: its text with pages, bookmarks as headings. Words that are divided at the end of a line are joined. Without text (scanned),
 * encrypted or damaged ones are errors. Text in a font that relies on one of Adobe's predefined tables of characters (some Chinese,
 * Japanese and Korean ones do) is not found.
 */
export const pdfReader: Reader = {
  name: 'pdf',
  extensions: ['pdf'],
  mediaTypes: ['application/pdf'],
  async *read(input, { limits, signal }) {
    yield await readIsolated(await jobFor('pdf', input, limits), limits, input.name, signal)
  },
}

import { jobFor, readIsolated } from '../isolated.ts'
import type { Reader } from './reader.ts'

/** Word documents (Office Open XML): text, headings, lists, tables, footnotes; no pictures. */
export const docxReader: Reader = {
  name: 'docx',
  extensions: ['docx', 'docm', 'dotx'],
  mediaTypes: ['application/vnd.openxmlformats-officedocument.wordprocessingml.document'],
  async *read(input, { limits, signal }) {
    yield await readIsolated(await jobFor('docx', input, limits), limits, input.name, signal)
  },
}
